/*
 * attempt.c
 *		Trying something that may fail.
 */
#include "prompt_stats.h"

#include "access/xact.h"
#include "utils/resowner.h"

/*
 * Does the work in a subtransaction.  NULL, or the error that it ended with, in the current
 * memory context; then nothing of it has happened.
 */
ErrorData *
pst_attempt(void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
