/*
 * prompt_stats.h
 *		Shared types, and the prototypes of each C file.
 *
 * Words: a "delta" is what is to be added to the counters of one prompt; to
 * "fold" is to add deltas to table prompt_stats.  fold.c is the only way into that
 * table.  A "unit" is the deltas of one transaction, a "group" those that are folded
 * together; to "flush" is to fold what transactions have left in memory.
 */
#ifndef PROMPT_STATS_H
#define PROMPT_STATS_H

#include "postgres.h"

#include "compat.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "storage/itemptr.h"
#include "utils/array.h"
#include "utils/relcache.h"

/* The counters of a prompt, in the order of PstDelta.n */
typedef enum PstCounter
{
	PST_VIEWS,
	PST_COPIES,
	PST_FORKS
} PstCounter;

#define PST_NCOUNTERS 3

/* What an id column holds, whatever its declared type (varchar, integer...) */
typedef enum PstIdKind
{
	PST_UUID,
	PST_BIGINT,
	PST_TEXT
} PstIdKind;

typedef struct PstDelta
{
	Datum		id;				/* of the kind of prompt_stats.prompt_id */
	int64		n[PST_NCOUNTERS];
} PstDelta;

typedef struct PstDeltas
{
	PstIdKind	kind;
	Oid			collation;		/* of prompt_stats.prompt_id */
	int			len;
	int			size;
	PstDelta   *items;
} PstDeltas;

/* A name as SQL text wants it: schema and table, quoted */
#define PST_QUALIFIED_LEN	(2 * (2 * NAMEDATALEN + 2) + 2)

/* For statements that run no code of an application */
#define PST_SAFE_PATH "pg_catalog, pg_temp"

/* What we know of the two tables; see tables.c.  Compared with memcmp(). */
typedef struct PstTables
{
	Oid			schema;			/* where the extension lives */

	Oid			stats;			/* InvalidOid where there is none */
	Oid			stats_owner;
	PstIdKind	id_kind;
	Oid			id_collation;
	bool		has_aliases;	/* different ids can be one prompt */
	AttrNumber	id_column;
	AttrNumber	counter_columns[PST_NCOUNTERS];
	AttrNumber	updated_at_column;	/* where sets_updated_at */
	int64		counter_max[PST_NCOUNTERS];
	bool		sets_updated_at;	/* we created the table */
	bool		runs_code;		/* writing a row can run functions of users */
	Oid			direct_index;	/* to find rows without a statement, or
								 * InvalidOid: direct.c */
	Oid			direct_equality;	/* function that compares its key */
	Oid			prompts;		/* what prompt_stats.prompt_id references */
	AttrNumber	prompts_key;

	Oid			events;			/* InvalidOid where there is none */
	Oid			events_owner;
	PstIdKind	event_id_kind;
	PstIdKind	user_kind;
	bool		fills_created_at;	/* the column has no default of its own */
	Oid			event_prompts;	/* what prompt_events.prompt_id references */

	char		stats_name[PST_QUALIFIED_LEN];
	char		events_name[PST_QUALIFIED_LEN];
	char		stats_path[PST_QUALIFIED_LEN];	/* search_path while folding */
	char		events_path[PST_QUALIFIED_LEN];
} PstTables;

/* A statement that is prepared once; static, zeroed at first */
typedef struct PstPlan
{
	SPIPlanPtr	prepared;		/* NULL until saved, and when forgotten */
	struct PstPlan *next;
} PstPlan;

/* What pst_enter_owner() must put back */
typedef struct PstOwnerScope
{
	Oid			userid;
	int			sec_context;
	int			guc_level;
	Oid			table;
} PstOwnerScope;

/* What a call leaves to the end of its transaction, the weakest first */
typedef enum PstDurability
{
	PST_DURABILITY_ASYNC,
	PST_DURABILITY_GROUP,
	PST_DURABILITY_TRANSACTION
} PstDurability;

/* Why a transaction folded its own counts, though it need not have */
typedef enum PstOwnFold
{
	PST_OWN_ALONE,				/* nobody else was counting: cheaper */
	PST_OWN_WRITES,				/* the transaction has an XID */
	PST_OWN_SERIALIZABLE,
	PST_OWN_TABLE_LOCK,			/* it holds a lock that the flusher would wait
								 * for */
	PST_OWN_PREPARE,
	PST_OWN_NO_MEMORY,			/* no shared memory, or none left */
	PST_OWN_NO_FLUSHER,			/* off, starting, or no worker slot left */
	PST_OWN_TOO_LARGE,			/* for a group, or for the table of pending
								 * counts */
	PST_OWN_COLLATION,			/* async: different ids can be one prompt */
	PST_OWN_RETURNED			/* the flusher could not fold it */
} PstOwnFold;

#define PST_NOWN (PST_OWN_RETURNED + 1)

struct PstDatabase;
struct PstSlot;

/* guc.c */
extern int	pst_durability;
extern bool pst_use_flusher;
extern int	pst_flush_interval;
extern int	pst_max_pending;
extern void PstGucInit(void);

/* shmem.c */
extern bool pst_attach(void);
extern bool pst_is_other_layout(void);
extern struct PstDatabase *pst_find_database(void);
extern struct PstDatabase *pst_entry_of(Oid oid);

/* xact.c */
extern void PstXactInit(void);
extern bool pst_may_collect(void);
extern void pst_collect(const PstTables *tables, const PstDeltas *deltas);
extern bool pst_holds_conflicting_lock(Oid table);

/* group.c */
extern bool pst_join_group(struct PstDatabase *db, const PstTables *tables, const PstDeltas *deltas, PstOwnFold *why);
extern void pst_push(struct PstDatabase *db, uint32 number);
extern void pst_await_standbys(void);
extern void pst_end_group(bool aborted);
extern bool pst_begin_solo(struct PstDatabase *db);
extern void pst_end_solo(void);
extern void pst_wake_flusher(struct PstDatabase *db);
extern void pst_read_slot(struct PstSlot *slot, PstDeltas *deltas);
extern void pst_free_slot(struct PstSlot *slot);
extern void pst_make_orphan(struct PstSlot *slot);
extern bool pst_move_slot(struct PstSlot *slot, uint32 from, uint32 to);
extern bool pst_tell(uint32 number, uint32 from, uint32 to);

/* worker.c */
extern void pst_start_flusher(struct PstDatabase *db);
extern void pst_report_silence(struct PstDatabase *db);

/* tables.c */
extern void PstTablesInit(void);
extern const PstTables *pst_need_tables(Oid function);
extern const PstTables *pst_lock_stats(Oid function);
extern const PstTables *pst_share_stats(Oid function);
extern const PstTables *pst_find_stats(Oid function);
extern const PstTables *pst_recall_stats(Oid stats);
extern const PstTables *pst_lock_stats_again(Oid schema, Oid stats, bool wait);
extern const PstTables *pst_lock_events(Oid function);

/* ids.c */
extern bool pst_id_kind_of(Oid type, PstIdKind *kind);
extern PstIdKind pst_argument_kind(Oid function, int argno, bool *is_array);
extern Oid	pst_id_type(PstIdKind kind);
extern const char *pst_id_name(PstIdKind kind);
extern const char *pst_type_name(PstIdKind kind);
extern Datum pst_convert_id(Datum id, PstIdKind from, PstIdKind to, const char *table);
extern int	pst_compare_ids(Datum a, Datum b, PstIdKind kind, Oid collation);
extern char *pst_print_id(Datum id, PstIdKind kind);
extern Datum pst_copy_id(Datum id, PstIdKind kind);
extern Size pst_id_bytes(Datum id, PstIdKind kind, char *to);
extern Datum pst_id_from_bytes(const char *from, Size len, PstIdKind kind);
extern ArrayType *pst_id_array(const Datum *ids, int len, PstIdKind kind);
extern void pst_deconstruct_ids(ArrayType *ids, PstIdKind kind, Datum **elements, bool **nulls, int *len);

/* deltas.c */
extern bool pst_is_zero(const int64 *n);
extern int64 pst_total(const int64 *n);
extern int64 pst_total_of(const PstDeltas *deltas);
extern ArrayType *pst_ids_of(const PstDeltas *deltas);
extern void pst_init_deltas(PstDeltas *deltas, const PstTables *tables, int size);
extern PstDelta *pst_add_delta(PstDeltas *deltas, Datum id, PstCounter counter, int64 n);
extern void pst_append_delta(PstDeltas *deltas, const PstDelta *delta);
extern void pst_sort_deltas(PstDeltas *deltas);
extern void pst_merge_deltas(PstDeltas *deltas);
extern PstDelta *pst_find_delta(const PstDeltas *deltas, Datum id);
extern void pst_remove_deltas(PstDeltas *deltas, ArrayType *ids);

/* owner.c */
extern void pst_enter_owner(PstOwnerScope *scope, Oid owner, const char *search_path, Oid table);
extern void pst_leave_owner(const PstOwnerScope *scope);
extern void pst_check_owner(const PstTables *tables);
extern Oid	pst_owner_of(Oid table);
extern uint64 pst_run_sql(const char *sql, int nargs, Oid *types, Datum *values);
extern uint64 pst_run_as(Oid role, const char *path, const char *sql, int nargs, Oid *types, Datum *values);
extern Oid	pst_own_table(const PstTables *tables, const char *name);
extern uint64 pst_run_on_own(Oid table, const char *sql, int nargs, Oid *types, Datum *values);
extern const char *pst_qualified_name(Oid table);

/* What becomes of a unit of deltas; see pst_fold_units() */
typedef enum PstVerdict
{
	PST_VERDICT_FOLDED,
	PST_VERDICT_LATER,			/* a row is locked */
	PST_VERDICT_RETURNED		/* a row is missing, or a counter has no room */
} PstVerdict;

/* fold.c */
extern bool pst_may_hurry(const PstTables *tables);
extern void pst_fold_units(const PstTables *known, const PstDeltas *units, PstVerdict *verdicts, int nunits,
						   bool in_haste);
extern uint64 pst_fold(const PstTables *tables, PstDeltas *deltas);

/* direct.c */
extern void pst_find_direct(Relation rel, PstTables *tables);
extern uint64 pst_update_directly(const PstTables *tables, PstDeltas *deltas, TransactionId *writer);
extern uint64 pst_update_directly_in_order(const PstTables *tables, PstDeltas *deltas);

/* tally.c */
typedef struct PstTally PstTally;

extern PstTally *pst_create_tally(const PstTables *tables);
extern DestReceiver *pst_tally_receiver(PstTally *tally);
extern int64 pst_finish_tally(PstTally *tally, PstDeltas *deltas, ItemPointer last);

/* functions.c */
extern void pst_count_one(Oid function, Datum id, PstIdKind kind, PstCounter counter, int64 n);
extern void pst_check_may_write(Oid function);

/* plans.c */
extern void pst_write_context(void *table_name);
extern void pst_save_plan(PstPlan *plan, const char *sql, int nargs, Oid *argtypes);
extern uint64 pst_run_plan(PstPlan *plan, Datum *values, const char *nulls, bool read_only);
extern void pst_forget_plans(void);

#endif							/* PROMPT_STATS_H */
