/*
 * ids.c
 *		Prompt and user ids: three kinds, whatever the columns are declared.
 */
#include "prompt_stats.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

/* So much of an id is in a message */
#define SHOWN_BYTES 96

static const struct
{
	const char *name;
	Oid			type;
	Oid			array_type;
	int16		typlen;
	bool		byval;
	char		align;
}			kinds[] =

{
	[PST_UUID] = {"uuid", UUIDOID, UUIDARRAYOID, UUID_LEN, false, TYPALIGN_CHAR},
	[PST_BIGINT] = {"bigint", INT8OID, INT8ARRAYOID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
	[PST_TEXT] = {"text", TEXTOID, TEXTARRAYOID, -1, false, TYPALIGN_INT},
};

/* Which kind a column of this type holds; false where we don't know the type */
bool
pst_id_kind_of(Oid type, PstIdKind *kind)
{
	switch (getBaseType(type))
	{
		case UUIDOID:
			*kind = PST_UUID;
			return true;
		case INT4OID:
		case INT8OID:
			*kind = PST_BIGINT;
			return true;
		case TEXTOID:
		case VARCHAROID:
			*kind = PST_TEXT;
			return true;
		default:
			return false;
	}
}

/*
 * The kind of a function's argument, as declared.  Not read from the call
 * expression, which fast-path calls don't have (fastpath.c).
 */
PstIdKind
pst_argument_kind(Oid function, int argno, bool *is_array)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			type;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	type = ((Form_pg_proc) GETSTRUCT(tuple))->proargtypes.values[argno];
	ReleaseSysCache(tuple);

	for (size_t kind = 0; kind < lengthof(kinds); kind++)
	{
		*is_array = type == kinds[kind].array_type;
		if (*is_array || type == kinds[kind].type)
			return kind;
	}
	elog(ERROR, "function %u has an id of unknown type %u", function, type);
}

Oid
pst_id_type(PstIdKind kind)
{
	return kinds[kind].type;
}

const char *
pst_id_name(PstIdKind kind)
{
	return kinds[kind].name;
}

/* As pg_catalog knows it */
const char *
pst_type_name(PstIdKind kind)
{
	return kind == PST_BIGINT ? "int8" : kinds[kind].name;
}

/* What a column of this type stores, whatever domains stand before it */
PstIdColumn
pst_id_column(Oid type, int32 typmod)
{
	PstIdColumn column = {.typmod = typmod};

	column.type = getBaseTypeAndTypmod(type, &column.typmod);
	return column;
}

/* ---- from what a call passes to what the column stores ---- */

/*
 * An untyped array literal reaches us as text, which is no id then.  But uuid_in() takes a
 * uuid in braces.
 */
static bool
is_array_literal(Datum id, PstIdKind to)
{
	const char *text = VARDATA_ANY(DatumGetPointer(id));
	size_t		len = VARSIZE_ANY_EXHDR(DatumGetPointer(id));

	for (; len > 0 && isspace((unsigned char) text[0]); len--)
		text	  ++;

	while (len > 0 && isspace((unsigned char) text[len - 1]))
		len--;
	if (to == PST_UUID && len == 38 && memchr(text, ',', len) == NULL)
		return false;
	return len >= 2 && text[0] == '{' && text[len - 1] == '}';
}

static bool
is_empty_literal(Datum id)
{
	const char *text = VARDATA_ANY(DatumGetPointer(id));
	size_t		len = VARSIZE_ANY_EXHDR(DatumGetPointer(id));

	for (size_t i = 0; i < len; i++)
		if (!isspace((unsigned char) text[i]) && text[i] != '{' && text[i] != '}')
			return false;
	return true;
}

/*
 * The ids of an untyped array literal, of the kind of the table; NULL where it is one id.  For
 * text it is neither, unless it is empty: somebody's ids may look so.
 */
ArrayType *
pst_ids_from_text(const PstTables *tables, Datum literal)
{
	PstIdKind	kind = tables->id_kind;
	Datum		ids;

	literal = PointerGetDatum(PG_DETOAST_DATUM_PACKED(literal));
	if (!is_array_literal(literal, kind) || (kind == PST_TEXT && !is_empty_literal(literal)))
		return NULL;
	ids = OidInputFunctionCall(F_ARRAY_IN, TextDatumGetCString(literal), kinds[kind].type, -1);
	return DatumGetArrayTypeP(ids);
}

/*
 * For an argument that is to be one id: say so, rather than count a prompt named "{...}" or
 * complain of a strange uuid.  Where no array can be passed a text may be what it likes.
 */
static void
check_no_array(Datum id, PstIdKind from, PstIdKind to, bool takes_arrays)
{
	if (from != PST_TEXT || (to == PST_TEXT && !takes_arrays))
		return;
	if (is_array_literal(PointerGetDatum(PG_DETOAST_DATUM_PACKED(id)), to))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("an array literal was passed as one id: \"%s\"", pst_show_id(id, PST_TEXT)),
				 errdetail("An untyped argument is taken as text."),
				 takes_arrays ?
				 errhint("Pass it as an array of text, as in $1::text[].") :
				 errhint("Call the function once for each id.")));
}

static Datum
id_from_text(Datum id, PstIdKind to)
{
	id = PointerGetDatum(PG_DETOAST_DATUM_PACKED(id));
	switch (to)
	{
		case PST_UUID:
			return DirectFunctionCall1(uuid_in, CStringGetDatum(TextDatumGetCString(id)));
		case PST_BIGINT:
			return DirectFunctionCall1(int8in, CStringGetDatum(TextDatumGetCString(id)));
		case PST_TEXT:
			break;
	}
	return id;
}

/* "table" is named in the error that uuid and bigint can't be each other */
static Datum
convert_id(Datum id, PstIdKind from, PstIdKind to, const char *table)
{
	if (from == PST_TEXT)
		return id_from_text(id, to);
	if (from == to)
		return id;
	if (to == PST_TEXT)
		return CStringGetTextDatum(pst_print_id(id, from));

	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("ids in table %s are %s, not %s",
					table, pst_id_name(to), pst_id_name(from)),
			 errhint("Pass an id of type %s.", pst_id_name(to))));
}

/* As varchar(id, typmod, false) does it: of what is too long only blanks may go */
static bool
fit_text(Datum *id, int max_chars)
{
	const char *text = VARDATA_ANY(DatumGetPointer(*id));
	int			len = VARSIZE_ANY_EXHDR(DatumGetPointer(*id));
	int			fits;

	if (len <= max_chars)
		return true;
	fits = pg_mbcharcliplen(text, len, max_chars);
	for (int i = fits; i < len; i++)
		if (text[i] != ' ')
			return false;
	if (fits < len)
		*id = PointerGetDatum(cstring_to_text_with_len(text, fits));
	return true;
}

/* As an assignment brings it to the column; false, and as it was, where it can't */
static bool
fit_id(Datum *id, PstIdColumn column)
{
	if (column.type == INT4OID)
		return DatumGetInt64(*id) >= PG_INT32_MIN && DatumGetInt64(*id) <= PG_INT32_MAX;
	if (column.type == VARCHAROID && column.typmod >= VARHDRSZ)
		return fit_text(id, column.typmod - VARHDRSZ);
	return true;
}

static void
misfit_error(Datum id, PstIdColumn column, Oid table, const char *name)
{
	bool		is_int = column.type == INT4OID;
	const char *shown = pst_show_id(id, is_int ? PST_BIGINT : PST_TEXT);

	ereport(ERROR,
			(errcode(is_int ? ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE : ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
			 is_int ?
			 errmsg("id %s is out of range for column \"%s\" of table %s", shown, name, pst_qualified_name(table)) :
			 errmsg("id \"%s\" is too long for column \"%s\" of table %s", shown, name, pst_qualified_name(table)),
			 errdetail("The column is of type %s.", format_type_with_typemod(column.type, column.typmod)),
			 errhint("Pass an id that exists; if there are such ids, widen the column with %s",
					 pst_alteration(table, name, psprintf("ALTER COLUMN %s TYPE %s", name, is_int ? "bigint" : "text")))));
}

static Datum
need_fitting_id(Datum id, PstIdColumn column, Oid table, const char *name)
{
	if (!fit_id(&id, column))
		misfit_error(id, column, table, name);
	return id;
}

/*
 * The prompt's id as prompt_stats stores it.  Each id that is to be counted comes through here,
 * for rows and pending counts are found by what is stored.
 */
Datum
pst_stats_id(const PstTables *tables, Datum id, PstIdKind from)
{
	id = convert_id(id, from, tables->id_kind, tables->stats_name);
	return need_fitting_id(id, tables->id_type, tables->stats, "prompt_id");
}

/* The same for an argument that is one id; what a table or an array holds may look like an array */
Datum
pst_only_stats_id(const PstTables *tables, Datum id, PstIdKind from, bool takes_arrays)
{
	check_no_array(id, from, tables->id_kind, takes_arrays);
	return pst_stats_id(tables, id, from);
}

/* The same to look for it: one that can't be stored is an id that has no row */
Datum
pst_stats_id_to_read(const PstTables *tables, Datum id, PstIdKind from)
{
	check_no_array(id, from, tables->id_kind, false);
	id = convert_id(id, from, tables->id_kind, tables->stats_name);
	(void) fit_id(&id, tables->id_type);
	return id;
}

/* In place, where the column may have changed since, or where they come from a table */
void
pst_fit_ids(const PstTables *tables, PstDeltas *deltas)
{
	for (int i = 0; i < deltas->len; i++)
		deltas->items[i].id = need_fitting_id(deltas->items[i].id, tables->id_type,
											  tables->stats, "prompt_id");
}

Datum
pst_event_id(const PstTables *tables, Datum id, PstIdKind from)
{
	check_no_array(id, from, tables->event_id_kind, false);
	id = convert_id(id, from, tables->event_id_kind, tables->events_name);
	return need_fitting_id(id, tables->event_id_type, tables->events, "prompt_id");
}

Datum
pst_user_id(const PstTables *tables, Datum id, PstIdKind from)
{
	check_no_array(id, from, tables->user_kind, false);
	id = convert_id(id, from, tables->user_kind, tables->events_name);
	return need_fitting_id(id, tables->user_type, tables->events, "user_id");
}

/* ---- what else is done with them ---- */

/* The order of the key's index; equal ids are one row of the table */
int
pst_compare_ids(Datum a, Datum b, PstIdKind kind, Oid collation)
{
	switch (kind)
	{
		case PST_UUID:
			return memcmp(DatumGetUUIDP(a)->data, DatumGetUUIDP(b)->data, UUID_LEN);
		case PST_BIGINT:
			{
				int64		x = DatumGetInt64(a);
				int64		y = DatumGetInt64(b);

				return (x > y) - (x < y);
			}
		case PST_TEXT:
			break;
	}
	return DatumGetInt32(DirectFunctionCall2Coll(bttextcmp, collation, a, b));
}

/* Palloc'd */
char *
pst_print_id(Datum id, PstIdKind kind)
{
	switch (kind)
	{
		case PST_UUID:
			return DatumGetCString(DirectFunctionCall1(uuid_out, id));
		case PST_BIGINT:
			return psprintf(INT64_FORMAT, DatumGetInt64(id));
		case PST_TEXT:
			break;
	}
	return TextDatumGetCString(id);
}

/* For messages: a long one is cut, for somebody else chose its length */
char *
pst_show_id(Datum id, PstIdKind kind)
{
	char	   *text = pst_print_id(id, kind);
	int			len = strlen(text);

	if (len <= SHOWN_BYTES)
		return text;

	return psprintf("%.*s...", pg_mbcliplen(text, len, SHOWN_BYTES), text);
}

/* Cut at a character where it is too long; must not fail */
void
pst_copy_text(char *to, const char *from, Size size)
{
	int			len = pg_mbcliplen(from, strlen(from), size - 1);

	memcpy(to, from, len);
	to[len] = '\0';
}

/*
 * An id as plain bytes, in the order of memcmp or not: for shared memory.  Returns
 * their number; writes them where "to" is not NULL.
 */
Size
pst_id_bytes(Datum id, PstIdKind kind, char *to)
{
	Size		len = kinds[kind].typlen;
	char	   *from;
	int64		number;

	switch (kind)
	{
		case PST_BIGINT:
			number = DatumGetInt64(id);
			from = (char *) &number;
			break;
		case PST_TEXT:
			len = VARSIZE_ANY_EXHDR(DatumGetPointer(id));
			from = VARDATA_ANY(DatumGetPointer(id));
			break;
		default:
			from = DatumGetPointer(id);
			break;
	}
	if (to != NULL)
		memcpy(to, from, len);
	return len;
}

Datum
pst_id_from_bytes(const char *from, Size len, PstIdKind kind)
{
	char	   *copy;
	int64		number;

	switch (kind)
	{
		case PST_BIGINT:
			memcpy(&number, from, sizeof(number));
			return Int64GetDatum(number);
		case PST_TEXT:
			return PointerGetDatum(cstring_to_text_with_len(from, len));
		default:
			copy = palloc(len);
			memcpy(copy, from, len);
			return PointerGetDatum(copy);
	}
}

/* Into the current memory context, detoasted */
Datum
pst_copy_id(Datum id, PstIdKind kind)
{
	if (kind == PST_TEXT)
		return PointerGetDatum(PG_DETOAST_DATUM_COPY(id));
	return datumCopy(id, kinds[kind].byval, kinds[kind].typlen);
}

ArrayType *
pst_id_array(const Datum *ids, int len, PstIdKind kind)
{
	return construct_array(unconstify(Datum *, ids), len, kinds[kind].type,
						   kinds[kind].typlen, kinds[kind].byval, kinds[kind].align);
}

void
pst_deconstruct_ids(ArrayType *ids, PstIdKind kind, Datum **elements, bool **nulls,
					int *len)
{
	deconstruct_array(ids, kinds[kind].type, kinds[kind].typlen, kinds[kind].byval,
					  kinds[kind].align, elements, nulls, len);
}
