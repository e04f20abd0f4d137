/*
 * flusher.h
 *		What the files of the flusher share: worker.c runs it, serve.c folds for
 *		transactions that wait, flush.c for those that went on.
 */
#ifndef PST_FLUSHER_H
#define PST_FLUSHER_H

#include "shared.h"

/* Milliseconds */
#define PST_RETRY_MIN_MS	1	/* for rows that were locked */
#define PST_RETRY_MAX_MS	32
#define PST_RETURN_MS		1000	/* who counts a row that stays locked gets
									 * it back */

/*
 * Milliseconds: the limits of what others may have to wait for.  A transaction that takes
 * longer is cancelled; where that does not end it, for a trigger can catch it, the flusher is
 * ended.  So it is when it leaves, with what can't be flushed.
 */
#define PST_FOLD_MS			10000
#define PST_FOLD_END_MS		13000
#ifndef PST_LEAVING_MS
#define PST_LEAVING_MS		30000
#endif
#define PST_LEAVING_END_MS	(PST_LEAVING_MS + PST_FOLD_END_MS - PST_FOLD_MS)

/* Why a transaction failed */
typedef struct PstFailure
{
	int			code;			/* SQLSTATE */
	char text[	PST_REASON_LEN];
} PstFailure;

/* worker.c */
extern PstDatabase *pst_served;
extern TimestampTz pst_last_fold;
extern bool pst_run_transaction(void (*step) (void), bool durable, PstFailure *failure);
extern void pst_fold_as_owner(const PstTables *tables, void (*fold) (const PstTables *));
extern bool pst_may_complain(TimestampTz *last);
extern void pst_check_interrupts(void);
extern void pst_sleep_until_woken(long timeout, uint32 soloist);

/* serve.c */
extern void pst_serve_init(void);
extern void pst_serve_waiting(void);
extern bool pst_holds_waiting(void);
extern void pst_return_waiting(void);
extern void pst_end_soloist(void);
extern void pst_begin_group_commit(void);
extern void pst_end_group_fold(bool committed);

/* flush.c */
extern void pst_flush_init(void);
extern void pst_flush_pending(void);
extern long pst_time_to_flush(void);
extern bool pst_is_flush_wanted(void);
extern void pst_report_leftover(void);
extern void pst_end_flights(bool committed);

#endif							/* PST_FLUSHER_H */
