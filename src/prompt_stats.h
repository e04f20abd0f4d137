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
#include "utils/portal.h"
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

/* What a column of ids stores, domains taken off */
typedef struct PstIdColumn
{
	Oid			type;			/* one of those that pst_id_kind_of() knows */
	int32		typmod;
} PstIdColumn;

/* A name as SQL text wants it: schema and table, quoted */
#define PST_QUALIFIED_LEN	(2 * (2 * NAMEDATALEN + 2) + 2)

/* The comment of a column that we set, or its last line; tables.c knows it by that */
#define PST_UPDATED_AT_COMMENT "time of the last count, set by extension prompt_stats"

/* For statements that run no code of an application */
#define PST_SAFE_PATH "pg_catalog, pg_temp"

/* What we know of the two tables; see tables.c.  Compared with memcmp(). */
typedef struct PstTables
{
	Oid			schema;			/* where the extension lives */

	Oid			stats;			/* InvalidOid where there is none */
	Oid			stats_owner;
	PstIdKind	id_kind;
	PstIdColumn id_type;
	Oid			id_collation;
	bool		has_aliases;	/* different ids can be one prompt */
	AttrNumber	id_column;
	AttrNumber	counter_columns[PST_NCOUNTERS];
	AttrNumber	updated_at_column;	/* where sets_updated_at */
	int64		counter_max[PST_NCOUNTERS];
	bool		sets_updated_at;	/* we created the column */
	bool		runs_code;		/* writing a row can run functions of users */
	bool		alters_inserts; /* a trigger has a say in what is inserted */
	bool		may_veto;		/* one may leave a row out of an update */
	bool		has_rules;
	bool		has_other_keys; /* unique, beside those on prompt_id alone */
	bool		has_late_keys;	/* that are deferrable, and no arbiters */
	Oid			direct_index;	/* to find rows without a statement, or
								 * InvalidOid: direct.c */
	Oid			direct_equality;	/* function that compares its key */
	bool		has_foreign_key;	/* where rows are found so */
	Oid			prompts;		/* what prompt_stats.prompt_id references */
	AttrNumber	prompts_key;

	Oid			events;			/* InvalidOid where there is none */
	Oid			events_owner;
	PstIdKind	event_id_kind;
	PstIdColumn event_id_type;
	PstIdKind	user_kind;
	PstIdColumn user_type;
	bool		fills_created_at;	/* the column has no default of its own */
	Oid			event_prompts;	/* what prompt_events.prompt_id references */

	char		stats_name[PST_QUALIFIED_LEN];
	char		events_name[PST_QUALIFIED_LEN];
	char		stats_path[PST_QUALIFIED_LEN];	/* search_path while folding */
	char		events_path[PST_QUALIFIED_LEN];
} PstTables;

/* Where the tables are, or will be; InvalidOid where there is none */
typedef struct PstPlace
{
	Oid			home;			/* their schema */
	Oid			prompts;		/* table prompts in it */
	Oid			events;
	Oid			stats;
} PstPlace;

/* A statement that is prepared once; static, zeroed at first */
typedef struct PstPlan
{
	SPIPlanPtr	prepared;		/* NULL until saved, and when forgotten */
	bool		is_listed;		/* among those that pst_forget_plans() finds */
	struct PstPlan *next;
} PstPlan;

/* Acting as the owner of a table: run.c */
typedef struct PstScope
{
	Oid			owner;
	const char *path;			/* search_path */
	Oid			writes;			/* the table that is written, which the caller
								 * has locked; or InvalidOid */
	const char *lock_timeout;	/* NULL: the session's */
	bool		finds_keys;		/* its statement looks up the keys of an array */
	int			more_context;	/* flags beside those of every scope */

	/* Of run.c: what it puts back */
	Oid			userid;
	int			sec_context;
	int			guc_level;		/* 0: the settings are not entered yet */
	bool		is_flusher;
	MemoryContext context;		/* of what the scope itself remembers, because
								 * SPI's goes before it ends */
	List	   *hidden;			/* cursors of the session */
	MemoryContext mark;			/* older than the portals of the scope */
	struct PstScope *outer;
} PstScope;

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
	PST_OWN_ORIGIN,				/* its commit is one of another server's */
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
extern bool pst_has_collected(void);
extern void pst_keep_portal(void);
extern void pst_take_collected(const PstTables *tables, Datum id, int64 *n);
extern void pst_finish_counting(void);
extern bool pst_holds_conflicting_lock(Oid table);

/* correct.c */
extern bool pst_has_claims(void);
extern void pst_abort_claims(int level);
extern void pst_keep_claims(int level);
extern void pst_end_claims(bool committed);

/* portal.c */
extern void pst_ensure_portal(void);

/* hooks.c */
extern void PstHooksInit(void);

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

/* choice.c */
extern void pst_find_tables(PstTables *tables);
extern void pst_find_chosen(Oid *events, Oid *stats);
extern void pst_check_no_stranger(const char *usual);
extern void pst_check_may_choose(Oid events, Oid stats);
extern void pst_choose(Oid events, Oid stats);
extern const char *pst_get_migration(void);
extern void pst_set_migration(const PstTables *tables, const char *migration);
extern void pst_note_legacy(const PstTables *tables, bool is_clean);
extern bool pst_is_restoring(void);

/* tables.c */
extern void PstTablesInit(void);
extern char *pst_find_own_comment(char *comment);
extern void pst_read_stats(PstTables *tables);
extern void pst_read_events(PstTables *tables);
extern const PstTables *pst_need_tables(Oid function);
extern const PstTables *pst_lock_stats(Oid function);
extern const PstTables *pst_share_stats(Oid function);
extern const PstTables *pst_find_stats(Oid function);
extern const PstTables *pst_recall_stats(Oid stats);
extern const PstTables *pst_lock_stats_again(Oid schema, Oid stats, bool wait);
extern const PstTables *pst_lock_events(Oid function);
extern const PstTables *pst_share_events(Oid function);

/* ids.c */
extern bool pst_id_kind_of(Oid type, PstIdKind *kind);
extern PstIdKind pst_argument_kind(Oid function, int argno, bool *is_array);
extern Oid	pst_id_type(PstIdKind kind);
extern const char *pst_id_name(PstIdKind kind);
extern const char *pst_type_name(PstIdKind kind);
extern PstIdColumn pst_id_column(Oid type, int32 typmod);
extern ArrayType *pst_ids_from_text(const PstTables *tables, Datum literal);
extern Datum pst_stats_id(const PstTables *tables, Datum id, PstIdKind from);
extern Datum pst_only_stats_id(const PstTables *tables, Datum id, PstIdKind from, bool takes_arrays);
extern Datum pst_stats_id_to_read(const PstTables *tables, Datum id, PstIdKind from);
extern void pst_fit_ids(const PstTables *tables, PstDeltas *deltas);
extern Datum pst_event_id(const PstTables *tables, Datum id, PstIdKind from);
extern Datum pst_user_id(const PstTables *tables, Datum id, PstIdKind from);
extern int	pst_compare_ids(Datum a, Datum b, PstIdKind kind, Oid collation);
extern char *pst_print_id(Datum id, PstIdKind kind);
extern char *pst_show_id(Datum id, PstIdKind kind);
extern void pst_copy_text(char *to, const char *from, Size size);
extern Datum pst_copy_id(Datum id, PstIdKind kind);
extern Size pst_id_bytes(Datum id, PstIdKind kind, char *to);
extern Datum pst_id_from_bytes(const char *from, Size len, PstIdKind kind);
extern ArrayType *pst_id_array(const Datum *ids, int len, PstIdKind kind);
extern void pst_deconstruct_ids(ArrayType *ids, PstIdKind kind, Datum **elements, bool **nulls, int *len);

/* deltas.c */
extern bool pst_is_zero(const int64 *n);
extern int64 pst_add_saturated(int64 a, int64 b);
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

/* run.c */
extern PstScope pst_scope_of(Oid owner, const char *path);
extern void pst_as_owner(PstScope *scope, void (*work) (void *arg), void *arg);
extern void pst_begin_as_owner(PstScope *scope);
extern void pst_end_as_owner(Oid session_user);
extern void pst_enter_settings(void);
extern bool pst_is_in_scope(void);
extern bool pst_finds_keys(void);
extern char *pst_path_of(Oid table);
extern uint64 pst_run(const char *sql, int nargs, Oid *types, Datum *values);
extern void pst_run_extended(const char *sql, int nargs, Oid *types, const SPIExecuteOptions *options);
extern uint64 pst_run_in(PstScope *scope, const char *sql, int nargs, Oid *types, Datum *values);
extern uint64 pst_run_on_table(Oid table, const char *sql, int nargs, Oid *types, Datum *values);
extern uint64 pst_run_as_extension(const char *sql, int nargs, Oid *types, Datum *values);
extern void pst_commit(void);
extern void pst_write_context(void *table_name);
extern void pst_save_plan(PstPlan *plan, const char *sql, int nargs, Oid *argtypes);
extern uint64 pst_run_plan(PstPlan *plan, Datum *values, const char *nulls, bool read_only);
extern uint64 pst_run_as_caller(PstPlan *plan, Datum *values, const char *nulls, bool read_only);
extern Portal pst_open_as_caller(const char *sql);

/* plans.c */
extern void PstPlansInit(void);
extern void pst_keep_plan(PstPlan *plan, SPIPlanPtr prepared);
extern void pst_forget_plans(void);
extern void pst_begin_saved(void);
extern void pst_end_saved(void);

/* refuse.c */
extern void PstRefuseInit(void);

/* extension.c */
extern Oid	pst_extension_schema(void);
extern Oid	pst_extension_owner(void);
extern Oid	pst_own_table(const char *name);
extern const char *pst_own_name(const char *name);

/* setup.c: guards, of a caller who is connected to SPI */
extern void pst_check_stats_adoptable(Oid stats);
extern void pst_check_events_adoptable(Oid events);
extern const char *pst_make_time_of(Oid stats);

/* attempt.c */
extern ErrorData *pst_attempt(void (*work) (void *arg), void *arg);

/* owner.c */
extern void pst_check_owner(const PstTables *tables);
extern void pst_check_owner_of(Oid table);
extern Oid	pst_owner_of(Oid table);
extern const char *pst_qualified_name(Oid table);
extern Oid	pst_owner_of_schema(Oid schema);
extern bool pst_owns_database(Oid role);
extern bool pst_is_strangers(Oid table);
extern void pst_stranger_error(Oid table, const char *events_name, const char *stats_name);

/* hints.c */
extern const char *pst_vetoing_trigger(Oid table, int16 events);
extern const char *pst_alteration(Oid table, const char *column, const char *commands);
extern const char *pst_alter_ids(Relation rel, const char *column, Oid from, const char *to);
extern const char *pst_replace_with_table(Relation rel);
extern const char *pst_detach_children(Relation rel, List *children);
extern const char *pst_merge_rows(const char *table);
extern const char *pst_do_without(Oid table, const char *column);
extern void pst_hint_at_write_error(const char *table_name);
extern void pst_hint_at_event_error(Oid table);

/* setup.c */
extern PstPlace pst_named_place(FunctionCallInfo fcinfo);
extern void pst_find_place(PstPlace *place);
extern void pst_check_place(const PstPlace *place);
extern AttrNumber pst_key_of(Oid table);
extern const char *pst_type_of_ids(const PstPlace *place);
extern Oid	pst_future_owner(const PstPlace *place);
extern void pst_check_stats_adoptable(Oid stats);
extern void pst_check_events_adoptable(Oid events);

/* preflight.c: what goes wrong */
typedef enum PstGravity
{
	PST_SURPRISES,
	PST_PERHAPS,				/* something, which depends on what others
								 * wrote */
	PST_COMPAT,					/* what the compat trigger counts */
	PST_MIGRATION,
	PST_COUNTING
} PstGravity;

extern List *pst_need_accepted(FunctionCallInfo fcinfo, int argno, PstGravity gravity);
extern List *pst_find_unaccepted(const PstTables *tables, PstGravity gravity, List *accepted);
extern void pst_unaccepted_error(List *unaccepted, List *accepted, Oid function, const char *arguments);
extern int	pst_count_findings(const PstTables *tables, PstGravity least);
extern void pst_tell_findings(const PstTables *tables, PstGravity least);

/* What becomes of a unit of deltas; see pst_fold_units() */
typedef enum PstVerdict
{
	PST_VERDICT_FOLDED,
	PST_VERDICT_LATER,			/* a row is locked */
	PST_VERDICT_RETURNED		/* a row is missing, or a counter has no room */
} PstVerdict;

/* unwritten.c */
typedef struct PstWriting
{
	const char *name;			/* of the table */
	const char *hint;			/* where rights are lacking; or NULL */
} PstWriting;

extern bool pst_may_veto(Relation rel, bool is_insert);
extern bool pst_has_policies(const PstTables *tables);
extern bool pst_has_update_rule(const PstTables *tables);
extern void pst_check_writable(const PstTables *tables);
extern void pst_check_no_update_rule(const PstTables *tables);
extern void pst_check_no_insert_rule(const PstTables *tables);
extern void pst_check_no_delete_rule(const PstTables *tables);
extern void pst_check_event_vetoed(const PstTables *tables);
extern void pst_explain_writing(const PstTables *tables, PstWriting *writing);
extern void pst_unwritten_context(void *arg);
extern void pst_hidden_row_error(const PstTables *tables, Datum id);
extern void pst_unwritten_error(const PstTables *tables, Datum id);
extern void pst_veto_error(const PstTables *tables, Datum id);

/* statements.c */
extern uint64 pst_update_rows(const PstTables *tables, PstDeltas *deltas);
extern uint64 pst_insert_rows(const PstTables *tables, PstDeltas *deltas);
extern uint64 pst_insert_free_rows(const PstTables *tables, PstDeltas *deltas);
extern uint64 pst_upsert_row(const PstTables *tables, const PstDelta *delta);
extern void pst_move_existing(const PstTables *tables, PstDeltas *deltas, PstDeltas *existing);
extern void pst_move_locked(const PstTables *tables, PstDeltas *deltas, PstDeltas *locked);
extern void pst_look_at_rows(const PstTables *tables, const PstDeltas *deltas);
extern void pst_lock_free_rows(const PstTables *tables, const PstDeltas *deltas);

/* fold.c */
extern bool pst_may_hurry(const PstTables *tables);
extern void pst_fold_units(const PstTables *known, const PstDeltas *units, PstVerdict *verdicts, int nunits,
						   bool in_haste);
extern const char *pst_counter_name(PstCounter counter);
extern void pst_check_not_hidden(const PstTables *tables, Datum id);
extern uint64 pst_fold(const PstTables *tables, PstDeltas *deltas);
extern uint64 pst_fold_all(const PstTables *tables, PstDeltas *deltas);

/* direct.c */
extern void pst_find_direct(Relation rel, PstTables *tables);
extern uint64 pst_update_directly(const PstTables *tables, PstDeltas *deltas, TransactionId *writer);
extern uint64 pst_update_directly_in_order(const PstTables *tables, PstDeltas *deltas);

/* checks.c */
extern bool pst_is_clean(const PstTables *tables);
extern bool pst_guard_events(const PstTables *tables);
extern void pst_make_way_for_legacy(Oid events, const char *migration);

/* tally.c */
typedef struct PstTally PstTally;

extern PstTally *pst_create_tally(const PstTables *tables);
extern DestReceiver *pst_tally_receiver(PstTally *tally);
extern int64 pst_finish_tally(PstTally *tally, PstDeltas *deltas, ItemPointer last);

/* functions.c */
extern void pst_count_one(Oid function, Datum id, PstIdKind kind, PstCounter counter, int64 n);
extern void pst_check_may_write(Oid function);

#endif							/* PROMPT_STATS_H */
