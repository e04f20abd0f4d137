/*
 * unwritten.c
 *		What keeps a row from being written, and what mends it.
 *
 * A count is in the table, or an error to its caller.  A rule can have something else done
 * instead, policies can hide a row from the owner of the table, and he can have taken rights
 * from himself: none of these may drop a count in silence.  A trigger that returns NULL
 * may, because that is its way to say no; but a migration does not delete what it will not
 * have counted.
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteDefine.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"
#include "utils/rls.h"

#define OWNERS_RIGHTS (ACL_SELECT | ACL_INSERT | ACL_UPDATE)

/* ---- rules ---- */

static char *
name_of_rule(Oid oid)
{
	Relation	rel = table_open(RewriteRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *name;

	ScanKeyInit(&key, Anum_pg_rewrite_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, RewriteOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find rule %u", oid);
	name = pstrdup(NameStr(((Form_pg_rewrite) GETSTRUCT(tuple))->rulename));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return name;
}

/* Where we write, the replication role is "origin" (run.c) */
static bool
is_enabled(const RewriteRule *rule)
{
	return rule->enabled == RULE_FIRES_ON_ORIGIN || rule->enabled == RULE_FIRES_ALWAYS;
}

static bool
replaces_update(const RewriteRule *rule)
{
	return rule->event == CMD_UPDATE && rule->isInstead && is_enabled(rule);
}

static bool
replaces_insert(const RewriteRule *rule)
{
	return rule->event == CMD_INSERT && rule->isInstead && rule->enabled != RULE_DISABLED;
}

static bool
replaces_delete(const RewriteRule *rule)
{
	return rule->event == CMD_DELETE && rule->isInstead && is_enabled(rule);
}

/* INSERT ... ON CONFLICT does not work beside these, one for UPDATE not even disabled (rewriteHandler.c) */
static bool
stops_upsert(const RewriteRule *rule)
{
	return rule->event == CMD_UPDATE || (rule->event == CMD_INSERT && is_enabled(rule));
}

/* The name of the first of the table's rules that does, or NULL; the table is locked */
static char *
find_rule(Oid table, bool (*does) (const RewriteRule *))
{
	Relation	rel = table_open(table, NoLock);
	char	   *name = NULL;

	for (int i = 0; name == NULL && rel->rd_rules != NULL && i < rel->rd_rules->numLocks; i++)
		if (does(rel->rd_rules->rules[i]))
			name = name_of_rule(rel->rd_rules->rules[i]->ruleId);
	table_close(rel, NoLock);
	return name;
}

static void
check_no_rule(Oid table, bool (*does) (const RewriteRule *), const char *detail)
{
	char	   *name = find_rule(table, does);

	if (name == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("rule %s of table %s is in the way", quote_identifier(name), pst_qualified_name(table)),
			 errdetail("%s", detail),
			 errhint("Drop it, with DROP RULE %s ON %s;", quote_identifier(name), pst_qualified_name(table))));
}

/* Before rows are updated, and known for sure: what was done instead can't be told afterwards */
void
pst_check_no_update_rule(const PstTables *tables)
{
	if (tables->has_rules)
		check_no_rule(tables->stats, replaces_update, "It does something else instead of counting.");
}

bool
pst_has_update_rule(const PstTables *tables)
{
	return tables->has_rules && find_rule(tables->stats, replaces_update) != NULL;
}

void
pst_check_no_insert_rule(const PstTables *tables)
{
	if (tables->has_rules)
		check_no_rule(tables->stats, stops_upsert,
					  "Rows can't be inserted with ON CONFLICT where rules are on INSERT or UPDATE.");
}

/* Else rows would be counted, and stay */
void
pst_check_no_delete_rule(const PstTables *tables)
{
	check_no_rule(tables->events, replaces_delete, "It does something else instead of deleting what is moved.");
}

/* ---- triggers ---- */

static bool
may_veto(const Trigger *trigger, bool is_insert)
{
	return TRIGGER_FOR_ROW(trigger->tgtype) && TRIGGER_FOR_BEFORE(trigger->tgtype) &&
		(is_insert ? TRIGGER_FOR_INSERT(trigger->tgtype) : TRIGGER_FOR_UPDATE(trigger->tgtype)) &&
		trigger->tgenabled != TRIGGER_DISABLED && trigger->tgenabled != TRIGGER_FIRES_ON_REPLICA;
}

/*
 * Has it a trigger that may leave a row out, and fires where we write, whatever the
 * session's replication role?
 */
bool
pst_may_veto(Relation rel, bool is_insert)
{
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		if (may_veto(&rel->trigdesc->triggers[i], is_insert))
			return true;
	return false;
}

/* As ALTER TABLE takes them */
static char *
disable_vetoes(Oid table)
{
	Relation	rel = table_open(table, NoLock);
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &rel->trigdesc->triggers[i];

		if (may_veto(trigger, true) || may_veto(trigger, false))
			appendStringInfo(&list, "%sDISABLE TRIGGER %s", list.len > 0 ? ", " : "",
							 quote_identifier(trigger->tgname));
	}
	table_close(rel, NoLock);
	return list.data;
}

/* Where all must be counted */
void
pst_veto_error(const PstTables *tables, Datum id)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a trigger of table %s keeps prompt %s from being counted", tables->stats_name,
					pst_show_id(id, tables->id_kind)),
			 errdetail("What is not counted must not be deleted."),
			 errhint("Disable it for the while, with ALTER TABLE %s %s;", tables->stats_name,
					 disable_vetoes(tables->stats))));
}

/* ---- policies and rights ---- */

/* Of the owner, whose policies are seldom in force for himself */
bool
pst_has_policies(const PstTables *tables)
{
	return check_enable_rls(tables->stats, tables->stats_owner, true) == RLS_ENABLED;
}

static bool
has_rights(const PstTables *tables)
{
	return pg_class_aclmask(tables->stats, tables->stats_owner, OWNERS_RIGHTS, ACLMASK_ALL) == OWNERS_RIGHTS;
}

static char *
mend_rights(const PstTables *tables)
{
	return psprintf("Give the owner his rights back, with GRANT SELECT, INSERT, UPDATE ON %s TO %s;",
					tables->stats_name, quote_identifier(GetUserNameFromId(tables->stats_owner, false)));
}

/* What can be known beforehand: rules and rights */
void
pst_check_writable(const PstTables *tables)
{
	pst_check_no_update_rule(tables);
	pst_check_no_insert_rule(tables);
	if (!has_rights(tables))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of table %s has not all rights on it", tables->stats_name),
				 errhint("%s", mend_rights(tables))));
}

/*
 * An ErrorContextCallback: what the server says of a lack of rights names the table, and
 * this what mends it.
 */
void
pst_unwritten_context(void *arg)
{
	const PstWriting *writing = arg;

	pst_write_context(unconstify(char *, writing->name));
	if (geterrcode() == ERRCODE_INSUFFICIENT_PRIVILEGE && writing->hint != NULL)
		errhint("%s", writing->hint);
}

/* What "arg" of pst_unwritten_context() is to say, looked up while that can be done */
void
pst_explain_writing(const PstTables *tables, PstWriting *writing)
{
	writing->name = tables->stats_name;
	if (pst_has_policies(tables))
		writing->hint = psprintf("Release the owner with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;",
								 tables->stats_name);
	else if (!has_rights(tables))
		writing->hint = mend_rights(tables);
}

void
pst_hidden_row_error(const PstTables *tables, Datum id)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("could not count prompt %s in table %s", pst_show_id(id, tables->id_kind), tables->stats_name),
			 errdetail("The policies of the table keep its row from the owner of the table."),
			 errhint("Release the owner with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;", tables->stats_name)));
}

/* Found, locked, and with room */
void
pst_unwritten_error(const PstTables *tables, Datum id)
{
	if (pst_has_policies(tables))
		pst_hidden_row_error(tables, id);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not count prompt %s in table %s", pst_show_id(id, tables->id_kind), tables->stats_name),
			 errdetail("Its row is there, and has room, but is not updated."),
			 errhint("Look for what keeps it from that, with SELECT * FROM %s();",
					 quote_qualified_identifier(get_namespace_name(pst_extension_schema()), "prompt_stats_verify"))));
}

/* ---- events ---- */

/* An event that was not inserted: a trigger may do that, for an event is not logged then, nor counted */
void
pst_check_event_vetoed(const PstTables *tables)
{
	Relation	rel = table_open(tables->events, NoLock);
	bool		vetoed = pst_may_veto(rel, true);

	table_close(rel, NoLock);
	if (!vetoed)
		check_no_rule(tables->events, replaces_insert, "It does something else instead of logging the event.");
}
