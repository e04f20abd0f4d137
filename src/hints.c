/*
 * hints.c
 *		What hints offer, where one sentence does not do: statements that mend, when they are
 *		pasted, on the table as it is.
 *
 * test/t/070_hints.pl takes each errhint() of the sources, and each HINT of the install script,
 * for an entry of its list: it raises the error, runs the statements of the hint, and calls
 * again.  An entry without a case fails it.
 */
#include "prompt_stats.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"

/* ---- triggers that have a veto ---- */

/* The first that may have left a row as it was; NULL where there is none */
const char *
pst_vetoing_trigger(Oid table, int16 events)
{
	Relation	rel = relation_open(table, NoLock);
	TriggerDesc *triggers = rel->trigdesc;
	const char *name = NULL;

	for (int i = 0; triggers != NULL && name == NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (TRIGGER_FOR_ROW(trigger->tgtype) && TRIGGER_FOR_BEFORE(trigger->tgtype) &&
			(trigger->tgtype & events) != 0 && trigger->tgenabled != TRIGGER_DISABLED)
			name = pstrdup(trigger->tgname);
	}
	relation_close(rel, NoLock);
	return name;
}

/* ---- ALTER TABLE of a column that others use ---- */

/*
 * The server refuses to alter the type of a column that views show, or triggers name: they
 * are dropped, in the order of their dependence, and made again.  Indexes of materialized
 * views are not.  The text of both statements, or NULLs.
 */
#define DEPENDENTS_SQL \
	"WITH RECURSIVE of_column AS (" \
	" SELECT r.ev_class AS view, 1 AS depth" \
	" FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid" \
	" WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass" \
	" AND d.refobjid = $1 AND d.refobjsubid = (SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2)" \
	" UNION" \
	" SELECT r.ev_class, o.depth + 1" \
	" FROM of_column o JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.view" \
	" JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass AND r.ev_class <> o.view)," \
	" views AS (" \
	" SELECT c.oid, max(o.depth) AS depth, c.oid::regclass AS name, c.relowner, c.relacl, c.reloptions," \
	" CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END AS kind" \
	" FROM of_column o JOIN pg_class c ON c.oid = o.view WHERE c.relkind IN ('v', 'm') GROUP BY c.oid)," \
	" statements AS (" \
	" SELECT -v.depth AS before, v.depth AS after, v.oid, format('DROP %s %s; ', v.kind, v.name) AS drop," \
	" format(' CREATE %s %s%s AS %s ALTER %1$s %2$s OWNER TO %5$s;%6$s', v.kind, v.name," \
	" ' WITH (' || array_to_string(v.reloptions, ', ') || ')', pg_get_viewdef(v.oid), v.relowner::regrole," \
	" (SELECT string_agg(format(' GRANT %s ON %s TO %s;', a.privilege_type, v.name," \
	" CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END), '')" \
	" FROM aclexplode(v.relacl) a WHERE a.grantee <> v.relowner)) AS make FROM views v" \
	" UNION ALL" \
	" SELECT 0, 0, t.oid, format('DROP TRIGGER %I ON %s; ', t.tgname, t.tgrelid::regclass)," \
	" format(' %s;', pg_get_triggerdef(t.oid))" \
	" FROM pg_trigger t JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attname = $2 AND a.attnum = ANY (t.tgattr)" \
	" WHERE t.tgrelid = $1 AND NOT t.tgisinternal)" \
	" SELECT string_agg(s.drop, '' ORDER BY s.before, s.oid), string_agg(s.make, '' ORDER BY s.after, s.oid) FROM statements s"

/* "ALTER TABLE ... commands;" with what must be done before and after it */
const char *
pst_alteration(Oid table, const char *column, const char *commands)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {OIDOID, NAMEOID};
	NameData	name = {{0}};
	Datum		values[] = {ObjectIdGetDatum(table), NameGetDatum(&name)};
	char	   *before;
	char	   *after;
	char	   *result;

	namestrcpy(&name, column);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	(void) pst_run_as_extension(DEPENDENTS_SQL, lengthof(types), types, values);
	before = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	after = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	result = psprintf("%sALTER TABLE %s %s;%s", before == NULL ? "" : before,
					  pst_qualified_name(table), commands, after == NULL ? "" : after);
	result = MemoryContextStrdup(caller, result);
	SPI_finish();
	return result;
}

/* ---- a column of ids ---- */

/* The foreign keys on this column alone, each as "DROP CONSTRAINT name, " */
static const char *
drop_foreign_keys(Relation rel, AttrNumber column)
{
	StringInfoData commands;
	ListCell   *lc;

	initStringInfo(&commands);
	foreach(lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *fk = lfirst(lc);

		if (fk->nkeys == 1 && fk->conkey[0] == column)
			appendStringInfo(&commands, "DROP CONSTRAINT %s, ", quote_identifier(get_constraint_name(fk->conoid)));
	}
	return commands.data;
}

/*
 * To a type that we know.  Small numbers become larger ones, which may go on to reference
 * others.  Else foreign keys go: a type can't reference what compares otherwise.  Where blanks
 * at the end did not matter none may come, lest a prompt have two rows.
 */
const char *
pst_alter_ids(Relation rel, const char *column, Oid from, const char *to)
{
	AttrNumber	number = get_attnum(RelationGetRelid(rel), column);
	const char *keys = from == INT2OID ? "" : drop_foreign_keys(rel, number);
	const char *check = from != BPCHAROID ? "" :
	psprintf(", ADD CHECK (%s = pg_catalog.rtrim(%s))", column, column);

	return pst_alteration(RelationGetRelid(rel), column,
						  psprintf("%sALTER COLUMN %s TYPE %s USING %s::%s%s", keys, column, to, column, to, check));
}

/* ---- what stands in the place of a table ---- */

static const char *
kind_of(Relation rel)
{
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_VIEW:
			return "VIEW";
		case RELKIND_MATVIEW:
			return "MATERIALIZED VIEW";
		case RELKIND_FOREIGN_TABLE:
			return "FOREIGN TABLE";
		default:
			return "TABLE";
	}
}

/* A table with its rows takes its place: an empty one would begin from zero */
const char *
pst_replace_with_table(Relation rel)
{
	const char *schema = get_namespace_name(RelationGetNamespace(rel));
	const char *name = pst_qualified_name(RelationGetRelid(rel));
	const char *old = psprintf("%s_old", RelationGetRelationName(rel));
	const char *was = quote_qualified_identifier(schema, old);
	const char *rename = psprintf("ALTER %s %s RENAME TO %s;", kind_of(rel), name, quote_identifier(old));

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return psprintf("%s CREATE TABLE %s (LIKE %s INCLUDING ALL); INSERT INTO %s OVERRIDING SYSTEM VALUE TABLE %s;",
						rename, name, was, name, was);
	return psprintf("%s CREATE TABLE %s AS TABLE %s;", rename, name, was);
}

const char *
pst_detach_children(Relation rel, List *children)
{
	StringInfoData commands;
	ListCell   *lc;

	initStringInfo(&commands);
	foreach(lc, children)
		appendStringInfo(&commands, " ALTER TABLE %s NO INHERIT %s;", pst_qualified_name(lfirst_oid(lc)),
						 pst_qualified_name(RelationGetRelid(rel)));
	return commands.data;
}

/* What comes after ALTER COLUMN, so that rows can be inserted without it */
const char *
pst_do_without(Oid table, const char *column)
{
	Relation	rel = relation_open(table, NoLock);
	AttrNumber	number = get_attnum(table, column);
	Bitmapset  *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	bool		is_key = bms_is_member(number - FirstLowInvalidHeapAttributeNumber, key);
	Oid			type = getBaseType(get_atttype(table, number));
	const char *name = quote_identifier(column);
	const char *qualified = pst_qualified_name(table);

	relation_close(rel, NoLock);
	if (type == UUIDOID)
		return psprintf("%s SET DEFAULT gen_random_uuid();", name);
	if (type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID)
		return psprintf("%s SET DEFAULT now();", name);
	if (!is_key)
		return psprintf("%s DROP NOT NULL;", name);
	if (type == INT2OID || type == INT4OID || type == INT8OID)
		return psprintf("%s ADD GENERATED BY DEFAULT AS IDENTITY;"
						" SELECT setval(pg_get_serial_sequence(%s, %s), COALESCE(max(%s), 0) + 1, false) FROM %s;",
						name, quote_literal_cstr(qualified), quote_literal_cstr(column), name, qualified);
	return psprintf("%s SET DEFAULT gen_random_uuid()::text;", name);
}

/* The rows of a prompt become one, with the sums of their counters */
const char *
pst_merge_rows(const char *table)
{
	return psprintf("WITH d AS (SELECT prompt_id, min(ctid) AS kept, sum(view_count) AS views, sum(copy_count) AS copies, sum(fork_count) AS forks"
					" FROM %s GROUP BY prompt_id HAVING count(*) > 1),"
					" gone AS (DELETE FROM %s s USING d WHERE s.prompt_id = d.prompt_id AND s.ctid <> d.kept)"
					" UPDATE %s s SET view_count = d.views, copy_count = d.copies, fork_count = d.forks FROM d WHERE s.ctid = d.kept;",
					table, table, table);
}

/* ---- errors of the server, while we write ---- */

static Oid
table_of_error(const ErrorData *error)
{
	Oid			schema = error->schema_name == NULL ? InvalidOid : get_namespace_oid(error->schema_name, true);

	return OidIsValid(schema) && error->table_name != NULL ? get_relname_relid(error->table_name, schema) : InvalidOid;
}

/* The column that a foreign key is about; "" where it is none of one column */
static const char *
column_of_foreign_key(Oid table, const char *constraint)
{
	Relation	rel = relation_open(table, NoLock);
	const char *column = "";
	ListCell   *lc;

	foreach(lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *fk = lfirst(lc);
		const char *name = get_constraint_name(fk->conoid);

		if (fk->nkeys == 1 && name != NULL && strcmp(name, constraint) == 0)
			column = get_attname(table, fk->conkey[0], false);
	}
	relation_close(rel, NoLock);
	return column;
}

static void
hint_at_constraint(const ErrorData *error, const char *table_name)
{
	Oid			table = table_of_error(error);
	const char *column;

	if (!OidIsValid(table) || error->constraint_name == NULL ||
		strcmp(pst_qualified_name(table), table_name) != 0)
		return;					/* a trigger has written elsewhere */
	if (error->sqlerrcode == ERRCODE_CHECK_VIOLATION)
	{
		errhint("Count what it admits, or drop it with ALTER TABLE %s DROP CONSTRAINT %s;",
				table_name, quote_identifier(error->constraint_name));
		return;
	}
	column = column_of_foreign_key(table, error->constraint_name);
	if (strcmp(column, "prompt_id") == 0)
		errhint("Count prompts that exist; insert the prompt first.");
	else if (strcmp(column, "user_id") == 0)
		errhint("Name a user who exists; insert the user first.");
}

/* In an error context callback, for a statement that writes the table */
void
pst_hint_at_write_error(const char *table_name)
{
	int			code = geterrcode();
	MemoryContext errors;
	ErrorData  *error;

	if (code != ERRCODE_FOREIGN_KEY_VIOLATION && code != ERRCODE_CHECK_VIOLATION)
		return;
	errors = MemoryContextSwitchTo(TopTransactionContext);
	error = CopyErrorData();
	if (error->hint == NULL)
		hint_at_constraint(error, table_name);
	MemoryContextSwitchTo(errors);
}

/* The same for the caller's INSERT of an event, for want of a right */
void
pst_hint_at_event_error(Oid table)
{
	const char *role;

	if (geterrcode() != ERRCODE_INSUFFICIENT_PRIVILEGE)
		return;
	role = quote_identifier(GetUserNameFromId(GetUserId(), false));
	if (pg_class_aclcheck(table, GetUserId(), ACL_INSERT) != ACLCHECK_OK)
		errhint("Events are inserted with the rights of who calls: GRANT INSERT ON %s TO %s;",
				pst_qualified_name(table), role);
	else if (check_enable_rls(table, InvalidOid, true) == RLS_ENABLED)
		errhint("Events are inserted under the policies of who calls: CREATE POLICY track ON %s FOR INSERT TO %s WITH CHECK (true);",
				pst_qualified_name(table), role);
}
