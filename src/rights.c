/*
 * rights.c
 *		Who may count: prompt_stats_allow(role) and prompt_stats_deny(role).
 *
 * The functions that count belong to whoever installed the extension, so that the
 * application's owner can't grant them himself.  Each form of them counts, and is granted
 * and revoked with the others; as their owner, who is asked for nothing else.
 */
#include "prompt_stats.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(prompt_stats_allow);
PG_FUNCTION_INFO_V1(prompt_stats_deny);

/* The functions p that count */
#define COUNTING \
	" FROM pg_extension x JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid" \
	" JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid" \
	" WHERE x.extname = 'prompt_stats' AND d.deptype = 'e' AND p.pronamespace = x.extnamespace" \
	" AND p.proname IN ('increment_prompt_views', 'increment_prompt_copies', 'increment_fork_count'," \
	" 'track_prompt_fork', 'track_compare_add')"

/* And who may call them: a.grantee, 0 for everybody */
#define GRANTS \
	"(SELECT p.oid, a.grantee, a.grantor" \
	" FROM (SELECT p.oid, COALESCE(p.proacl, acldefault('f', p.proowner)) AS acl" COUNTING ") p," \
	" aclexplode(p.acl) a WHERE a.privilege_type = 'EXECUTE')"

/* As GRANT has it; no role can be called so (user.c: CreateRole) */
#define EVERYBODY "public"

/* Whom the role has it from */
typedef struct Source
{
	char	   *kind;			/* "public", "grant", "member" or "superuser" */
	char	   *role;			/* quoted */
	char	   *functions;
} Source;

/* ---- arguments ---- */

static const char *
need_role(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the role must not be null"),
				 errhint("Pass the name of a role, or 'public' for everybody.")));
	return NameStr(*PG_GETARG_NAME(0));
}

static bool
is_everybody(const char *role)
{
	return strcmp(role, EVERYBODY) == 0;
}

/* Who may change the counters anyway may also say who counts; one after the other */
static void
check_may_change(Oid function)
{
	pst_check_may_write(function);
	pst_check_owner(pst_need_tables(function));
	LockRelationOid(pst_own_table("config"), ShareUpdateExclusiveLock);
}

/* ---- changing ---- */

static char *
field(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/* "GRANT EXECUTE ON FUNCTION ... TO ...", or the like, as the owner of the functions */
static void
change(const char *what, const char *to, const char *role, const char *behavior)
{
	SPITupleTable *found;
	uint64		owners = pst_run_as_extension("SELECT p.proowner, string_agg(p.oid::regprocedure::text, ', ')"
											  COUNTING " GROUP BY p.proowner", 0, NULL, NULL);

	found = SPI_tuptable;
	for (uint64 row = 0; row < owners; row++)
	{
		bool		isnull;
		Oid			owner = DatumGetObjectId(SPI_getbinval(found->vals[row], found->tupdesc, 1, &isnull));
		PstScope	scope = pst_scope_of(owner, PST_SAFE_PATH);

		(void) pst_run_in(&scope, psprintf("%s EXECUTE ON FUNCTION %s %s %s %s", what,
										   SPI_getvalue(found->vals[row], found->tupdesc, 2), to, role, behavior),
						  0, NULL, NULL);
	}
	CommandCounterIncrement();
}

static bool
may_everybody(void)
{
	(void) pst_run_as_extension("SELECT 1 FROM " GRANTS " g WHERE g.grantee = 0 LIMIT 1", 0, NULL, NULL);
	return SPI_processed > 0;
}

static void
close_to_everybody(void)
{
	if (!may_everybody())
		return;
	change("REVOKE", "FROM", "PUBLIC", "CASCADE");
	ereport(NOTICE,
			(errmsg("only roles that are allowed to may count from now on"),
			 errhint("To let everybody count again, SELECT %s('public');",
					 quote_qualified_identifier(get_namespace_name(pst_extension_schema()), "prompt_stats_allow"))));
}

/* To call a function takes the right to use its schema, which is not ours to give */
static void
tell_schema(const char *role, const char *quoted)
{
	Oid			schema = pst_extension_schema();
	const char *name = quote_identifier(get_namespace_name(schema));
	Oid			types[] = {NAMEOID, OIDOID};
	Datum		values[] = {DirectFunctionCall1(namein, CStringGetDatum(role)), ObjectIdGetDatum(schema)};

	(void) pst_run_as_extension("SELECT 1 WHERE NOT has_schema_privilege($1, $2, 'USAGE')",
								lengthof(types), types, values);
	if (SPI_processed > 0)
		ereport(NOTICE,
				(errmsg("%s has no right to use schema %s", quoted, name),
				 errhint("GRANT USAGE ON SCHEMA %s TO %s;", name, quoted)));
}

/* ---- who may still ---- */

/* Owners of the functions are among the grantees (acl.c: acldefault) */
static List *
list_sources(Oid role)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(role);
	List	   *sources = NIL;

	(void) pst_run_as_extension("SELECT CASE WHEN g.grantee = 0 THEN 'public' WHEN g.grantee = $1 THEN 'grant' ELSE 'member' END,"
								" CASE WHEN g.grantee = $1 THEN g.grantor ELSE g.grantee END::regrole::text,"
								" string_agg(DISTINCT g.oid::regprocedure::text, ', ')"
								" FROM " GRANTS " g WHERE CASE WHEN g.grantee = 0 THEN true ELSE pg_has_role($1, g.grantee, 'MEMBER') END"
								" GROUP BY 1, 2"
								" UNION ALL"
								" SELECT 'superuser', r.oid::regrole::text, NULL FROM pg_roles r"
								" WHERE r.rolsuper AND pg_has_role($1, r.oid, 'MEMBER')"
								" AND NOT EXISTS (SELECT FROM " GRANTS " g WHERE g.grantee = r.oid)"
								" ORDER BY 1 DESC, 2",
								1, &type, &value);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		Source	   *source = palloc(sizeof(Source));

		source->kind = field(row, 1);
		source->role = field(row, 2);
		source->functions = field(row, 3);
		sources = lappend(sources, source);
	}
	return sources;
}

static char *
print_sources(List *sources)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, sources)
	{
		const Source *source = lfirst(lc);
		const char *separator = foreach_current_index(lc) > 0 ? ", and " : "";

		if (strcmp(source->kind, "public") == 0)
			appendStringInfo(&text, "%sas everybody (PUBLIC)", separator);
		else if (strcmp(source->kind, "grant") == 0)
			appendStringInfo(&text, "%sby a grant of role %s", separator, source->role);
		else
			appendStringInfo(&text, "%sas a member of %s %s", separator,
							 strcmp(source->kind, "superuser") == 0 ? "superuser" : "role", source->role);
	}
	return text.data;
}

/* What takes it away */
static char *
mend_source(const Source *source, const char *role)
{
	const char *home = quote_identifier(get_namespace_name(pst_extension_schema()));

	if (strcmp(source->kind, "public") == 0)
		return psprintf("SELECT %s.prompt_stats_deny('public');", home);
	if (strcmp(source->kind, "grant") == 0)
		return psprintf("SET ROLE %s; REVOKE EXECUTE ON FUNCTION %s FROM %s CASCADE; RESET ROLE;",
						source->role, source->functions, role);
	return psprintf("REVOKE %s FROM %s;", source->role, role);
}

static void
check_denied(Oid role, const char *name)
{
	List	   *sources;

	if (superuser_arg(role))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role %s may still count", name),
				 errdetail("It is a superuser."),
				 errhint("Make it none, with ALTER ROLE %s NOSUPERUSER;", name)));
	sources = list_sources(role);
	if (sources != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role %s may still count", name),
				 errdetail("It may %s.", print_sources(sources)),
				 errhint("Take that away first, with %s", mend_source(linitial(sources), name))));
}

/* ---- entry points ---- */

/*
 * prompt_stats_allow(role name): lets a role count, and nobody who has not been allowed by
 * name; 'public' lets everybody.
 */
Datum
prompt_stats_allow(PG_FUNCTION_ARGS)
{
	const char *role = need_role(fcinfo);
	const char *quoted = is_everybody(role) ? "PUBLIC" : quote_identifier(role);

	check_may_change(fcinfo->flinfo->fn_oid);
	SPI_connect();
	if (!is_everybody(role))
	{
		(void) get_role_oid(role, false);
		close_to_everybody();
	}
	change("GRANT", "TO", quoted, "");
	tell_schema(role, quoted);
	SPI_finish();
	PG_RETURN_VOID();
}

/* prompt_stats_deny(role name): an error where the role may still, and whom it has that from */
Datum
prompt_stats_deny(PG_FUNCTION_ARGS)
{
	const char *role = need_role(fcinfo);
	Oid			oid = is_everybody(role) ? InvalidOid : get_role_oid(role, false);

	check_may_change(fcinfo->flinfo->fn_oid);
	SPI_connect();
	change("REVOKE", "FROM", is_everybody(role) ? "PUBLIC" : quote_identifier(role), "CASCADE");
	if (OidIsValid(oid))
		check_denied(oid, quote_identifier(role));
	SPI_finish();
	PG_RETURN_VOID();
}
