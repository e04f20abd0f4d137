/*
 * checks.c
 *		The check that keeps prompt_events to the two kinds of event.
 */
#include "migrate.h"

#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/* Validating reads the table under an exclusive lock: at once only where that is quick */
#define QUICK_BLOCKS	(64 * 1024 * 1024 / BLCKSZ)

/* "event_type = ANY (ARRAY[...])" is what the server makes of IN, whatever the column's type */
#define OUR_CHECK \
	"CHECK (event_type IS NOT NULL AND event_type::pg_catalog.text OPERATOR(pg_catalog.=)" \
	" ANY (ARRAY['fork'::pg_catalog.text, 'compare_add'::pg_catalog.text]))"

/* The same as pg_get_expr() prints it, without what it may have more or less of */
#define OUR_TEXT "event_typeISNOTNULLANDevent_type=ANYARRAY['fork','compare_add']"
#define NO_MATTER "::(text|character varying(\\(\\d+\\))?)(\\[\\])?|[() ]"

/* ---- finding the checks ---- */

/* In the scope of the extension's owner, where names are quoted only if they must be */
static void
find_checks(void *arg)
{
	const PstTables *tables = arg;
	Oid			types[] = {OIDOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		ObjectIdGetDatum(tables->events),
		CStringGetTextDatum(NO_MATTER),
		CStringGetTextDatum(OUR_TEXT)
	};

	pst_enter_settings();
	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) pst_run("SELECT c.conname, c.convalidated, " PST_CHECK_IS_ENFORCED " AND"
				   " pg_catalog.regexp_replace(pg_catalog.pg_get_expr(c.conbin, c.conrelid), $2,"
				   " ''::pg_catalog.text, 'g'::pg_catalog.text) OPERATOR(pg_catalog.=) $3"
				   " FROM pg_catalog.pg_constraint AS c"
				   " JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid"
				   " AND c.conkey OPERATOR(pg_catalog.=) ARRAY[a.attnum]"
				   " WHERE c.conrelid OPERATOR(pg_catalog.=) $1"
				   " AND c.contype OPERATOR(pg_catalog.=) 'c'::pg_catalog.\"char\""
				   " AND a.attname OPERATOR(pg_catalog.=) 'event_type'::pg_catalog.name"
				   " ORDER BY c.oid",
				   lengthof(types), types, values);
}

/*
 * The checks on event_type alone, as PstChecks.  Ours is known by its text, casts aside:
 * nothing that users wrote is evaluated.  Every other one is superfluous beside ours, or
 * forbids what ours admits.
 */
static List *
list_checks(const PstTables *tables)
{
	PstScope	scope = pst_scope_of(pst_extension_owner(), PST_SAFE_PATH);
	List	   *checks = NIL;
	bool		isnull;

	pst_as_owner(&scope, find_checks, unconstify(PstTables *, tables));
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		PstCheck   *check = palloc(sizeof(PstCheck));

		check->name = pstrdup(NameStr(*DatumGetName(pst_get_field(row, 1, &isnull))));
		check->is_valid = DatumGetBool(pst_get_field(row, 2, &isnull));
		check->is_ours = DatumGetBool(pst_get_field(row, 3, &isnull));
		checks = lappend(checks, check);
	}
	return checks;
}

/* Ours; NULL where there is none.  Must be connected to SPI. */
PstCheck *
pst_find_check(const PstTables *tables)
{
	PstCheck   *found = NULL;
	ListCell   *lc;

	foreach(lc, list_checks(tables))
	{
		PstCheck   *check = lfirst(lc);

		if (check->is_ours && (found == NULL || (check->is_valid && !found->is_valid)))
			found = check;
	}
	return found;
}

/* ---- changing them ---- */

typedef struct Alteration
{
	const PstTables *tables;
	const char *sql;
	const char *purpose;		/* of an error that says that the lock can't
								 * be had */
	const char *detail;
	const char *hint;
} Alteration;

static void
no_lock_error(const Alteration *alteration)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not lock table %s to %s its check", alteration->tables->events_name, alteration->purpose),
			 errdetail("%s", alteration->detail),
			 errhint("%s", alteration->hint)));
}

/* An ALTER TABLE of prompt_events, as its owner */
static void
alter_events(void *arg)
{
	Alteration *alteration = arg;
	MemoryContext context = CurrentMemoryContext;
	Oid			table = alteration->tables->events;
	PstScope	scope = pst_scope_of(pst_owner_of(table), pst_path_of(table));

	scope.lock_timeout = "3s";
	PG_TRY();
	{
		(void) pst_run_in(&scope, alteration->sql, 0, NULL, NULL);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		no_lock_error(alteration);
	}
	PG_END_TRY();
}

static bool
is_clean(const PstTables *tables)
{
	bool		isnull;

	LockRelationOid(tables->events, AccessShareLock);
	(void) pst_run_on_table(tables->events,
							psprintf("SELECT NOT EXISTS (SELECT FROM ONLY %s AS e WHERE " PST_IS_REFUSED ")",
									 tables->events_name), 0, NULL, NULL);
	return DatumGetBool(pst_get_field(0, 1, &isnull));
}

/* Does prompt_events hold none but the two kinds of event? */
bool
pst_is_clean(const PstTables *tables)
{
	bool		result;

	SPI_connect();
	result = is_clean(tables);
	SPI_finish();
	return result;
}

static char *
choose_name(const PstTables *tables)
{
	static const char *const usual[] = {"prompt_events_event_type_check", "prompt_stats_event_type_check"};

	for (size_t i = 0; i < lengthof(usual); i++)
		if (!OidIsValid(get_relation_constraint_oid(tables->events, usual[i], true)))
			return pstrdup(usual[i]);
	return ChooseConstraintName(get_rel_name(tables->events), "event_type", "check",
								get_rel_namespace(tables->events), NIL);
}

/* In one statement, so that the table is never without a check */
static void
replace_checks(const PstTables *tables, List *checks, bool clean)
{
	StringInfoData sql;
	Alteration	alteration = {
		.tables = tables,
		.purpose = "change",
		.detail = "Another transaction has used the table for longer than 3 seconds.",
		.hint = "Try again when it has ended."
	};
	char	   *name = NULL;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s ", tables->events_name);
	foreach(lc, checks)
	{
		PstCheck   *check = lfirst(lc);

		if (check->is_ours)
			continue;
		appendStringInfo(&sql, "DROP CONSTRAINT %s, ", quote_identifier(check->name));
		if (name == NULL)
			name = check->name;
	}
	if (name == NULL)
		name = choose_name(tables);
	appendStringInfo(&sql, "ADD CONSTRAINT %s " OUR_CHECK "%s", quote_identifier(name),
					 !clean || pst_count_blocks(tables->events) > QUICK_BLOCKS ? " NOT VALID" : "");
	alteration.sql = sql.data;
	alter_events(&alteration);
	ereport(NOTICE,
			(errmsg("check %s of table %s now admits only fork and compare_add",
					quote_identifier(name), tables->events_name)));
}

static bool
are_all_ours(List *checks)
{
	ListCell   *lc;

	foreach(lc, checks)
		if (!((PstCheck *) lfirst(lc))->is_ours)
		return false;
	return checks != NIL;
}

/*
 * Makes the check admit only fork and compare_add.  Returns whether there are none but these
 * two kinds, looked at before any lock is taken.
 */
bool
pst_guard_events(const PstTables *known)
{
	PstTables	copy = *known;	/* the owner's code may have them loaded anew */
	const PstTables *tables = &copy;
	bool		clean;
	List	   *checks;

	SPI_connect();
	clean = is_clean(tables);
	checks = list_checks(tables);
	if (!are_all_ours(checks))
		replace_checks(tables, checks, clean);
	SPI_finish();
	return clean;
}

/* False where rows violate it */
static bool
validate(const PstTables *tables, const PstCheck *check)
{
	char	   *name = psprintf("%s.%s", quote_identifier(get_namespace_name(tables->schema)), "prompt_stats_migrate");
	Alteration	alteration = {
		.tables = tables,
		.sql = psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", tables->events_name, quote_identifier(check->name)),
		.purpose = "validate",
		.detail = "Every row has been moved; only the validation is missing.",
		.hint = psprintf("CALL %s(); again when the table is not being altered or vacuumed.", name)
	};
	ErrorData  *error = pst_attempt(alter_events, &alteration);

	if (error != NULL && error->sqlerrcode != ERRCODE_CHECK_VIOLATION)
		ReThrowError(error);
	if (error == NULL)
		ereport(NOTICE,
				(errmsg("check %s of table %s is valid", quote_identifier(check->name), tables->events_name)));
	return error == NULL;
}

/* Returns whether the check is valid in the end */
bool
pst_validate_checks(const PstTables *tables)
{
	bool		result = false;
	ListCell   *lc;

	SPI_connect();
	foreach(lc, list_checks(tables))
	{
		PstCheck   *check = lfirst(lc);

		if (!check->is_ours)
			continue;
		result = check->is_valid || validate(tables, check);
		if (!result)
			break;
	}
	SPI_finish();
	return result;
}

static char *
migrate_call(const char *migration)
{
	return psprintf("%s.prompt_stats_migrate(%s)", quote_identifier(get_namespace_name(pst_extension_schema())),
					strcmp(migration, "due") == 0 ? "" : psprintf("mode => '%s'", migration));
}

static void
drop_check(const PstTables *tables, const PstCheck *check, const char *migration)
{
	Alteration	alteration = {
		.tables = tables,
		.sql = psprintf("ALTER TABLE %s DROP CONSTRAINT %s", tables->events_name, quote_identifier(check->name)),
		.purpose = "drop",
		.detail = "The rows to be restored may violate it.",
		.hint = "Restore without -j."
	};

	alter_events(&alteration);
	ereport(WARNING,
			(errmsg("dropped check %s of table %s", quote_identifier(check->name), tables->events_name),
			 errdetail("The dump may bring view and copy rows, which violate it."),
			 errhint("When they are restored, make it again with CALL %s;", migrate_call(migration))));
}

static bool
is_empty(const PstTables *tables)
{
	bool		isnull;

	(void) pst_run_on_table(tables->events, psprintf("SELECT NOT EXISTS (SELECT FROM ONLY %s)", tables->events_name),
							0, NULL, NULL);
	return DatumGetBool(pst_get_field(0, 1, &isnull));
}

/*
 * For the rows of a half-migrated database, if its schema is restored before its data: the
 * server checks each row that is inserted, whether the check is valid or not.  Where rows
 * are there already, as in a parallel restore, the check came after them.
 */
void
pst_make_way_for_legacy(Oid events, const char *migration)
{
	PstTables	tables = {.events = events};
	List	   *checks;
	ListCell   *lc;

	SPI_connect();
	strlcpy(tables.events_name, pst_qualified_name(events), sizeof(tables.events_name));
	checks = list_checks(&tables);
	foreach(lc, checks)
	{
		PstCheck   *check = lfirst(lc);

		if (check->is_ours && is_empty(&tables))
			drop_check(&tables, check, migration);
	}
	SPI_finish();
}
