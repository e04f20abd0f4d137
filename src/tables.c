/*
 * tables.c
 *		Which two tables we count in, their shape, and a cache of both.
 *
 * The tables belong to the application; no dependency ties them to us.  Which they are says
 * choice.c.  What we learn of them is cached until the server says that one of them, or a
 * schema, has changed (inval.c).
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/readfuncs.h"
#include "parser/parse_coerce.h"
#include "rewrite/prs2lock.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static const char *const counter_columns[PST_NCOUNTERS] = {
	"view_count", "copy_count", "fork_count"
};

static PstTables cached;
static Oid	cached_config = InvalidOid;
static bool cached_valid = false;
static bool stats_valid = false;	/* what we know of cached.stats is */
static bool stats_found = false;	/* and it is the extension's table now */
static bool plans_are_old = false;	/* made before something changed */
static uint64 invalidations = 0;

PG_FUNCTION_INFO_V1(prompt_stats_tables);

static void
print_names(Relation rel, char *name, char *path)
{
	char	   *nspname = get_namespace_name(RelationGetNamespace(rel));

	strlcpy(name, quote_qualified_identifier(nspname, RelationGetRelationName(rel)),
			PST_QUALIFIED_LEN);
	snprintf(path, PST_QUALIFIED_LEN, "pg_catalog, %s, pg_temp",
			 quote_identifier(nspname));
}

/* ---- guards: a table of another shape is refused, with what mends it ---- */

static void
check_is_table(Relation rel, const char *name)
{
	List	   *children;

	if (rel->rd_rel->relkind != RELKIND_RELATION ||
		rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not an ordinary table", name),
				 errdetail("Views, foreign, partitioned and temporary tables can't be used."),
				 rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP ?
				 errhint("Name a table that stays.") :
				 errhint("Put a table with its rows in its place, with %s", pst_replace_with_table(rel))));

	/* The flag outlives the last child (pg_inherits.c) */
	if (!rel->rd_rel->relhassubclass)
		return;
	children = find_inheritance_children(RelationGetRelid(rel), NoLock);
	if (children != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table %s has inheritance children", name),
				 errhint("Detach them, with%s", pst_detach_children(rel, children))));
}

static Form_pg_attribute
find_column(Relation rel, const char *column)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (!attr->attisdropped && strcmp(NameStr(attr->attname), column) == 0)
			return attr;
	}
	return NULL;
}

static Form_pg_attribute
need_column(Relation rel, const char *name, const char *column, const char *type)
{
	Form_pg_attribute attr = find_column(rel, column);

	if (attr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table %s has no column \"%s\"", name, column),
				 errhint("Add it with ALTER TABLE %s ADD COLUMN %s %s;", name, column, type)));
	if (attr->attgenerated != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"%s\" of table %s is a generated column", column, name),
				 errhint("Make it an ordinary one with ALTER TABLE %s ALTER COLUMN %s DROP EXPRESSION;",
						 name, column)));
	return attr;
}

/* "mend" is a statement, or NULL where we can't know one */
static void
bad_column_type(Form_pg_attribute attr, const char *name, const char *wanted, const char *mend)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of table %s is of type %s, not %s",
					NameStr(attr->attname), name, format_type_be(attr->atttypid), wanted),
			 mend != NULL ?
			 errhint("Change it with %s", mend) :
			 errhint("Make it text that says 'view', 'copy', 'fork' or 'compare_add': only you know which of its values means what.")));
}

static const char *
alter_type(Relation rel, const char *column, const char *type)
{
	return pst_alteration(RelationGetRelid(rel), column,
						  psprintf("ALTER COLUMN %s TYPE %s USING %s::%s", column, type, column, type));
}

static Form_pg_attribute
need_id_column(Relation rel, const char *name, const char *column, PstIdKind *kind, PstIdColumn *type)
{
	Form_pg_attribute attr = need_column(rel, name, column, "uuid");

	if (!pst_id_kind_of(attr->atttypid, kind))
		bad_column_type(attr, name, "uuid, bigint, integer, text or varchar",
						pst_alter_ids(rel, column, getBaseType(attr->atttypid),
									  TypeCategory(attr->atttypid) == TYPCATEGORY_NUMERIC ? "bigint" : "text"));
	*type = pst_id_column(attr->atttypid, attr->atttypmod);
	return attr;
}

static int64
need_counter(Relation rel, const char *name, const char *column, AttrNumber *number)
{
	Form_pg_attribute attr = need_column(rel, name, column, "bigint NOT NULL DEFAULT 0");

	*number = attr->attnum;
	if (getBaseType(attr->atttypid) == INT8OID)
		return PG_INT64_MAX;
	if (getBaseType(attr->atttypid) != INT4OID)
		bad_column_type(attr, name, "bigint or integer", alter_type(rel, column, "bigint"));
	return PG_INT32_MAX;
}

/*
 * A unique key on the column alone.  ON CONFLICT (prompt_id) takes all of them, and
 * none may be deferrable (plancat.c: infer_arbiter_indexes, execIndexing.c).
 */
static bool
is_unique_on(Relation index, AttrNumber column)
{
	Form_pg_index form = index->rd_index;

	return form->indisunique && form->indisvalid &&
		form->indnkeyatts == 1 && form->indkey.values[0] == column &&
		heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

static void
no_unique_key(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
			 errmsg("table %s has no unique key on prompt_id", name),
			 errdetail("Without one a prompt could have several rows, and a count would go to all of them."),
			 errhint("Merge the rows of each prompt, and add one: %s ALTER TABLE %s ADD UNIQUE (prompt_id);",
					 pst_merge_rows(name), name)));
}

static void
deferrable_key(const char *name, const char *constraint, bool is_only_key)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
			 errmsg("unique key \"%s\" of table %s is deferrable", constraint, name),
			 errdetail("INSERT ... ON CONFLICT can't use it."),
			 errhint("Replace it with ALTER TABLE %s DROP CONSTRAINT %s%s;", name,
					 quote_identifier(constraint),
					 is_only_key ? ", ADD UNIQUE (prompt_id)" : "")));
}

/* What else the indexes refuse: see insert_missing() in fold.c */
static void
note_other_key(Relation index, PstTables *tables)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique && !form->indisexclusion)
		return;
	if (form->indimmediate)
		tables->has_other_keys = true;
	else
		tables->has_late_keys = true;
}

static void
read_keys(Relation rel, const char *name, AttrNumber column, PstTables *tables)
{
	const char *deferrable = NULL;
	bool		found = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (!is_unique_on(index, column))
			note_other_key(index, tables);
		else if (index->rd_index->indimmediate)
			found = true;
		else
			deferrable = pstrdup(RelationGetRelationName(index));
		index_close(index, AccessShareLock);
	}
	if (deferrable != NULL)
		deferrable_key(name, deferrable, !found);
	if (!found)
		no_unique_key(name);
}

/* ---- reading their shape ---- */

static bool
is_validated(Oid constraint)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	bool		result = HeapTupleIsValid(tuple) &&
	((Form_pg_constraint) GETSTRUCT(tuple))->convalidated;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/* What the column references: InvalidOid where it has no foreign key alone */
static Oid
referenced_table(Relation rel, AttrNumber column, bool validated, AttrNumber *key)
{
	ListCell   *lc;

	foreach(lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *fk = lfirst(lc);

		if (fk->nkeys != 1 || fk->conkey[0] != column ||
			(validated && !is_validated(fk->conoid)))
			continue;
		*key = fk->confkey[0];
		return fk->confrelid;
	}
	return InvalidOid;
}

/*
 * Of the triggers that the server or an extension makes, a foreign key's are no code of
 * users; what others do can't be known, as where the rows are kept on another server.
 */
static bool
is_foreign_key_trigger(const Trigger *trigger)
{
	return trigger->tgisinternal && RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_NONE;
}

static bool
has_user_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (!is_foreign_key_trigger(&triggers->triggers[i]))
			return true;
	return false;
}

/* relhasrules outlives the last rule (rewriteRemove.c) */
static bool
has_rules(Relation rel)
{
	return rel->rd_rules != NULL && rel->rd_rules->numLocks > 0;
}

/* Built-in is not harmless: set_config() is built in.  These are. */
static bool
is_suspect_function(Oid function, void *context)
{
	return function != F_INT8_INT4 && function != F_NOW &&
		function != F_GEN_RANDOM_UUID && function != F_NEXTVAL;
}

static bool
calls_suspect_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return check_functions_in_node(node, is_suspect_function, context) ||
		expression_tree_walker(node, calls_suspect_function, context);
}

static bool
has_suspect_default(Relation rel)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
		if (calls_suspect_function(stringToNode(constr->defval[i].adbin), NULL))
			return true;
	return false;
}

static bool
has_user_type(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->atttypid >= FirstNormalObjectId)
			return true;
	return false;
}

static bool
has_computed_index(Relation rel)
{
	ListCell   *lc;
	bool		result = false;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		result |= !heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL) ||
			!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
		index_close(index, AccessShareLock);
	}
	return result;
}

/*
 * Can writing a row run a function that somebody wrote?  Where it can't, we spare
 * ourselves the settings that such a function must find (owner.c), a tenth of a
 * call.  When in doubt it can.
 */
static bool
runs_user_code(Relation rel)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	return has_user_trigger(rel) || has_suspect_default(rel) ||
		has_user_type(rel) || has_computed_index(rel) ||
		rel->rd_rel->relforcerowsecurity || has_rules(rel) ||
		(constr != NULL && (constr->num_check > 0 || pst_has_generated_column(constr)));
}

/* Where the comment on a column says that we set it; NULL: it doesn't */
char *
pst_find_own_comment(char *comment)
{
	size_t		len = strlen(PST_UPDATED_AT_COMMENT);
	size_t		all = strlen(comment);

	return all >= len && strcmp(comment + all - len, PST_UPDATED_AT_COMMENT) == 0 ? comment + all - len : NULL;
}

/* Can the time be assigned to it? */
static bool
holds_time(Form_pg_attribute attr)
{
	Oid			type = getBaseType(attr->atttypid);

	return attr->attgenerated == '\0' &&
		(type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID);
}

/* As long as it can hold a time: its owner may have changed it */
static bool
is_ours(Relation rel, Form_pg_attribute updated_at)
{
	char	   *comment;

	if (updated_at == NULL || !holds_time(updated_at))
		return false;
	comment = GetComment(RelationGetRelid(rel), RelationRelationId, updated_at->attnum);
	return comment != NULL && pst_find_own_comment(comment) != NULL;
}

static void
read_stats(Relation rel, PstTables *tables)
{
	const char *name = tables->stats_name;
	Form_pg_attribute id;
	Form_pg_attribute updated_at = find_column(rel, "updated_at");

	print_names(rel, tables->stats_name, tables->stats_path);
	check_is_table(rel, name);
	tables->stats_owner = rel->rd_rel->relowner;
	id = need_id_column(rel, name, "prompt_id", &tables->id_kind, &tables->id_type);
	tables->id_column = id->attnum;
	tables->id_collation = id->attcollation;
	tables->has_aliases = OidIsValid(id->attcollation) && !get_collation_isdeterministic(id->attcollation);
	for (int c = 0; c < PST_NCOUNTERS; c++)
		tables->counter_max[c] = need_counter(rel, name, counter_columns[c], &tables->counter_columns[c]);
	read_keys(rel, name, id->attnum, tables);

	tables->sets_updated_at = is_ours(rel, updated_at);
	if (tables->sets_updated_at)
		tables->updated_at_column = updated_at->attnum;
	tables->runs_code = runs_user_code(rel);
	tables->alters_inserts = pst_may_veto(rel, true);
	tables->may_veto = pst_may_veto(rel, false);
	tables->has_rules = has_rules(rel);
	pst_find_direct(rel, tables);
	tables->prompts = referenced_table(rel, id->attnum, false, &tables->prompts_key);
}

/* Texts and enums; a number would become a text that is no kind of event */
static bool
says_words(Oid type)
{
	char		category = TypeCategory(type);

	return category == TYPCATEGORY_STRING || category == TYPCATEGORY_ENUM;
}

static void
check_event_type(Relation rel, const char *name)
{
	Form_pg_attribute attr = need_column(rel, name, "event_type", "text");
	int32		typmod = attr->atttypmod;
	Oid			type = getBaseTypeAndTypmod(attr->atttypid, &typmod);

	if (type != TEXTOID && type != VARCHAROID)
		bad_column_type(attr, name, "text or varchar",
						says_words(attr->atttypid) ? alter_type(rel, "event_type", "text") : NULL);
	if (typmod >= 0 && typmod < (int32) (VARHDRSZ + strlen("compare_add")))
		bad_column_type(attr, name, "wide enough for 'compare_add'", alter_type(rel, "event_type", "text"));
}

static void
read_events(Relation rel, PstTables *tables)
{
	const char *name = tables->events_name;
	Form_pg_attribute id;
	Form_pg_attribute created_at;
	AttrNumber	key;

	print_names(rel, tables->events_name, tables->events_path);
	check_is_table(rel, name);
	tables->events_owner = rel->rd_rel->relowner;
	id = need_id_column(rel, name, "prompt_id", &tables->event_id_kind, &tables->event_id_type);
	(void) need_id_column(rel, name, "user_id", &tables->user_kind, &tables->user_type);
	check_event_type(rel, name);
	if (OidIsValid(tables->stats) && tables->event_id_kind != tables->id_kind)
		bad_column_type(id, name, psprintf("%s as in %s", pst_id_name(tables->id_kind),
										   tables->stats_name),
						pst_alter_ids(rel, "prompt_id", getBaseType(id->atttypid), pst_id_name(tables->id_kind)));

	created_at = find_column(rel, "created_at");
	tables->fills_created_at = created_at != NULL && !created_at->atthasdef;
	tables->event_prompts = referenced_table(rel, id->attnum, true, &key);
}

/* False where the table was dropped while we waited for its lock */
static bool
read_table(Oid table, void (*read) (Relation, PstTables *), PstTables *tables)
{
	Relation	rel = try_relation_open(table, AccessShareLock);

	if (rel == NULL)
		return false;
	read(rel, tables);
	relation_close(rel, AccessShareLock);
	return true;
}

/* A table that need not be chosen, which the caller has locked */
void
pst_read_stats(PstTables *tables)
{
	if (!read_table(tables->stats, read_stats, tables))
		elog(ERROR, "table %u is gone", tables->stats);
}

void
pst_read_events(PstTables *tables)
{
	if (!read_table(tables->events, read_events, tables))
		elog(ERROR, "table %u is gone", tables->events);
}

/* ---- the cache ---- */

static void
forget_table(Datum arg, Oid relid)
{
	invalidations++;
	if (!OidIsValid(relid) || relid == cached.stats || relid == cached.events ||
		relid == cached.prompts || relid == cached_config)
	{
		cached_valid = stats_found = stats_valid = false;
		plans_are_old = true;
	}
}

static void
forget_all(Datum arg, int cacheid, uint32 hashvalue)
{
	forget_table(arg, InvalidOid);
}

void
PstTablesInit(void)
{
	CacheRegisterRelcacheCallback(forget_table, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_all, (Datum) 0);
}

/* Plans name the tables in their text, and may owe it to a rule or a column that is gone: plans.c */
static void
replace_cached(const PstTables *fresh)
{
	if (!plans_are_old && memcmp(fresh, &cached, sizeof(cached)) == 0)
		return;
	pst_forget_plans();
	plans_are_old = false;
	memcpy(&cached, fresh, sizeof(cached));
}

/* What is known of the events, which has not been read again and is not valid now */
static void
keep_events(PstTables *fresh)
{
	fresh->events = cached.events;
	fresh->events_owner = cached.events_owner;
	fresh->event_id_kind = cached.event_id_kind;
	fresh->event_id_type = cached.event_id_type;
	fresh->user_kind = cached.user_kind;
	fresh->user_type = cached.user_type;
	fresh->fills_created_at = cached.fills_created_at;
	fresh->event_prompts = cached.event_prompts;
	memcpy(fresh->events_name, cached.events_name, sizeof(cached.events_name));
	memcpy(fresh->events_path, cached.events_path, sizeof(cached.events_path));
}

/* False where a table was dropped while we waited for its lock: there may be another by now */
static bool
find_and_read(PstTables *fresh, bool with_events)
{
	memset(fresh, 0, sizeof(*fresh));
	fresh->schema = pst_extension_schema();
	cached_config = pst_own_table("config");
	pst_find_tables(fresh);
	if (OidIsValid(fresh->stats) && !read_table(fresh->stats, read_stats, fresh))
		return false;
	if (!with_events)
		keep_events(fresh);
	else if (OidIsValid(fresh->events) && !read_table(fresh->events, read_events, fresh))
		return false;
	return true;
}

/* Who only counts needs nothing of the events: it is a third of a session's first call */
static void
load_tables(bool with_events)
{
	PstTables	fresh;
	uint64		seen;

	do
		seen = invalidations;
	while (!find_and_read(&fresh, with_events));
	replace_cached(&fresh);

	/* The server tells of changes to what exists, not of what is created */
	stats_found = stats_valid = seen == invalidations && OidIsValid(fresh.stats);
	cached_valid = with_events && stats_valid && OidIsValid(fresh.events);
}

/* Only what is needed to fold into this table, wherever the extension went */
static void
load_stats(Oid schema, Oid stats)
{
	PstTables	fresh;
	uint64		seen = invalidations;

	memset(&fresh, 0, sizeof(fresh));
	fresh.schema = schema;
	if (read_table(stats, read_stats, &fresh))
		fresh.stats = stats;
	keep_events(&fresh);
	replace_cached(&fresh);
	stats_valid = seen == invalidations && OidIsValid(fresh.stats);
	cached_valid = stats_found = false;
}

/*
 * The tables of the extension that "function" belongs to.  Either may be
 * missing: stats or events is InvalidOid then.
 */
static const PstTables *
get_tables(Oid function)
{
	if (!cached_valid)
		load_tables(true);
	return &cached;
}

/* The same as far as the counters go */
static const PstTables *
get_stats(Oid function)
{
	if (!stats_found)
		load_tables(false);
	return &cached;
}

static void
missing_table(const char *name, Oid schema)
{
	if (get_namespace_name(schema) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s\" does not exist", name)));

	pst_check_no_stranger(name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table \"%s\" does not exist", name),
			 errdetail("It is neither in schema \"%s\" nor was another table set up in its place.",
					   get_namespace_name(schema)),
			 errhint("Create it with SELECT %s();",
					 quote_qualified_identifier(get_namespace_name(schema), "prompt_stats_setup"))));
}

/* As get_tables(), with both tables there */
const PstTables *
pst_need_tables(Oid function)
{
	const PstTables *tables = get_tables(function);

	if (!OidIsValid(tables->stats))
		missing_table("prompt_stats", tables->schema);
	if (!OidIsValid(tables->events))
		missing_table("prompt_events", tables->schema);
	return tables;
}

/*
 * As get_stats(), with the table there, and locked.  Taking the lock reads what other
 * sessions changed meanwhile, hence the loop: the owner that we act as is the owner of
 * now, and the table is one.
 */
static const PstTables *
lock_stats(Oid function, LOCKMODE mode)
{
	uint64		seen;

	do
	{
		seen = invalidations;
		(void) pst_find_stats(function);
		LockRelationOid(cached.stats, mode);
	} while (seen != invalidations && !stats_found);
	return &cached;
}

const PstTables *
pst_lock_stats(Oid function)
{
	return lock_stats(function, RowExclusiveLock);
}

/* To read */
const PstTables *
pst_share_stats(Oid function)
{
	return lock_stats(function, AccessShareLock);
}

/* Without a lock: for a count that is folded at the end of the transaction */
const PstTables *
pst_find_stats(Oid function)
{
	const PstTables *tables = get_stats(function);

	if (!OidIsValid(tables->stats))
		missing_table("prompt_stats", tables->schema);
	return tables;
}

/* What we know of it still, without a lock; NULL where it may have changed since */
const PstTables *
pst_recall_stats(Oid stats)
{
	return stats_valid && cached.stats == stats ? &cached : NULL;
}

/*
 * The table that was found at a call, locked; whatever became of its name, its shape,
 * or the extension.  Where we don't wait: NULL if its lock can't be had, and "stats"
 * is InvalidOid if it is gone.
 */
const PstTables *
pst_lock_stats_again(Oid schema, Oid stats, bool wait)
{
	uint64		seen;

	do
	{
		seen = invalidations;
		if (wait)
			LockRelationOid(stats, RowExclusiveLock);
		else if (!ConditionalLockRelationOid(stats, RowExclusiveLock))
			return NULL;
		if (!stats_valid || cached.stats != stats)
			load_stats(schema, stats);
	} while (seen != invalidations);
	if (wait && !OidIsValid(cached.stats))
		missing_table("prompt_stats", schema);
	return &cached;
}

/* The events, there and locked, in the same way */
static const PstTables *
lock_events(Oid function, LOCKMODE mode)
{
	uint64		seen;

	do
	{
		seen = invalidations;
		if (!OidIsValid(get_tables(function)->events))
			missing_table("prompt_events", cached.schema);
		LockRelationOid(cached.events, mode);
	} while (seen != invalidations && !cached_valid);
	return &cached;
}

const PstTables *
pst_lock_events(Oid function)
{
	return lock_events(function, RowExclusiveLock);
}

/* To read */
const PstTables *
pst_share_events(Oid function)
{
	return lock_events(function, AccessShareLock);
}

/*
 * prompt_stats_tables(OUT events regclass, OUT stats regclass, OUT prompts regclass)
 */
Datum
prompt_stats_tables(PG_FUNCTION_ARGS)
{
	const PstTables *tables = get_tables(fcinfo->flinfo->fn_oid);
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	values[0] = ObjectIdGetDatum(tables->events);
	values[1] = ObjectIdGetDatum(tables->stats);
	values[2] = ObjectIdGetDatum(tables->prompts);
	for (int i = 0; i < 3; i++)
		nulls[i] = !OidIsValid(DatumGetObjectId(values[i]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
