/*
 * portal.c
 *		The last step of COMMIT and PREPARE in which code of users may run.
 *
 * The server fires deferred triggers and closes portals until nothing is left of
 * either.  What follows, callbacks included, "cannot call any user-defined code"
 * (xact.c: CommitTransaction, PrepareTransaction): a library that a trigger reaches
 * then has had its own callback already, and finds at COMMIT that it missed it.
 * Closing a portal may run such code, and may fail (portalmem.c: PortalDrop).  So a
 * transaction that has counted has a portal of ours, which does the rest when it is
 * closed.
 *
 * - It belongs to the whole transaction: no savepoint takes it along.
 * - It runs nothing, nobody sees it, and nobody can close it by its name, as a
 *	 client may by protocol, for the name is a secret.
 * - CLOSE ALL and DISCARD ALL close it too early, for what they are part of can be
 *	 rolled back to a savepoint.  Another one is made when they are done (hooks.c).
 * - It is the last to be closed, for others that are, such as a cursor WITH HOLD, may
 *	 still write or count, and what is decided is about the whole transaction.
 */
#include "prompt_stats.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#define SECRET_BYTES 16

/* NULL where there is none that has yet to be closed */
static Portal counting = NULL;

static const char *
portal_name(void)
{
	static char name[NAMEDATALEN] = "";
	char		secret[SECRET_BYTES];
	char		digits[2 * SECRET_BYTES + 1];

	if (name[0] != '\0')
		return name;
	if (!pg_strong_random(secret, SECRET_BYTES))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	digits[hex_encode(secret, SECRET_BYTES, digits)] = '\0';
	snprintf(name, sizeof(name), "prompt_stats %s", digits);
	return name;
}

/* ---- cursors WITH HOLD of a transaction that fails ---- */

/* The server lists the newest first (mcxt.c: MemoryContextCreate) */
static bool
is_younger(MemoryContext context, MemoryContext than)
{
	for (MemoryContext i = than->prevchild; i != NULL; i = i->prevchild)
		if (i == context)
			return true;
	return false;
}

/*
 * A cursor whose rows were stored since our portal was made, hence by this COMMIT.  The
 * server has no list of portals for us but the one of their memory contexts, which bear
 * their names.
 */
static Portal
find_held_cursor(Portal portal)
{
	MemoryContext ours = portal->portalContext;

	for (MemoryContext i = ours->parent->firstchild; i != NULL; i = i->nextchild)
	{
		Portal		other = i->ident == NULL ? NULL : GetPortalByName(i->ident);

		if (PortalIsValid(other) && other->createSubid == InvalidSubTransactionId &&
			other->holdContext != NULL && !other->portalPinned &&
			is_younger(other->holdContext, ours))
			return other;
	}
	return NULL;
}

/*
 * They no longer belong to the transaction, which would leave them behind.  In the
 * handler of an error: this neither allocates nor fails.
 */
static void
drop_held_cursors(Portal portal)
{
	Portal		cursor;

	while ((cursor = find_held_cursor(portal)) != NULL)
		PortalDrop(cursor, false);
}

/* ---- closing ---- */

/* The server's own loop */
static void
close_others(void)
{
	do
		AfterTriggerFireDeferred();
	while (PreCommit_Portals(false));
}

/*
 * What is folded inside a transaction that has written is safe whatever it writes
 * afterwards.  PREPARE comes here with an XID always.  Meanwhile our portal is active, so
 * that nobody closes it again: neither the server's loop nor a trigger with CLOSE ALL.
 */
static void
finish_transaction(Portal portal)
{
	portal->status = PORTAL_ACTIVE;
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		close_others();
	pst_finish_counting();
	portal->status = PORTAL_DONE;
}

/* A statement has a snapshot, COMMIT has none, nor has a procedure that commits */
static bool
is_closed_by_statement(void)
{
	return ActiveSnapshotSet();
}

/* The hook of our portal, which the server calls when it is closed, and at an abort */
static void
cleanup_portal(Portal portal)
{
	portal->cleanup = NULL;		/* never twice */
	if (!IsTransactionState() || is_closed_by_statement() || !pst_has_collected())
	{
		counting = NULL;
		return;
	}
	PG_TRY();
	{
		finish_transaction(portal);
	}
	PG_CATCH();
	{
		counting = NULL;
		portal->status = PORTAL_DONE;
		drop_held_cursors(portal);
		PG_RE_THROW();
	}
	PG_END_TRY();
	counting = NULL;
}

/* From now on the transaction has a portal; whoever counts comes here first */
void
pst_ensure_portal(void)
{
	Portal		portal;

	if (counting != NULL)
		return;
	portal = CreatePortal(portal_name(), false, false);

	/* Nothing can fail from here on */
	ResourceOwnerDelete(portal->resowner);
	portal->resowner = NULL;
	portal->createSubid = TopSubTransactionId;
	portal->activeSubid = TopSubTransactionId;
	portal->createLevel = 1;
	portal->visible = false;
	portal->cleanup = cleanup_portal;
	MemoryContextSetIdentifier(portal->portalContext, NULL);	/* secret */

	/*
	 * It can't be run.  READY would be a query that is under way to COPY
	 * FREEZE; before that it could not be closed.
	 */
	PortalDefineQuery(portal, NULL, "counts of prompt_stats", CMDTAG_UNKNOWN, NIL, NULL);
	portal->status = PORTAL_DONE;
	counting = portal;
}
