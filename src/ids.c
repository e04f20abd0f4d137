/*
 * ids.c
 *		Prompt and user ids: three kinds, whatever the columns are declared.
 */
#include "prompt_stats.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

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

/*
 * An untyped array literal reaches us as text: say so, rather than count a
 * prompt named "{...}" or complain of a strange uuid.
 */
static void
check_no_array(const char *id, PstIdKind to)
{
	size_t		len = strlen(id);

	/* uuid_in() takes a uuid in braces */
	if (to == PST_UUID && len == 38 && strchr(id, ',') == NULL)
		return;
	if (len >= 2 && id[0] == '{' && id[len - 1] == '}')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("an array literal was passed as one id: \"%s\"", id),
				 errdetail("An untyped argument is taken as text."),
				 errhint("Cast the array to the type of the ids, as in $1::uuid[], $1::bigint[] or $1::text[].")));
}

static Datum
id_from_text(Datum id, PstIdKind to)
{
	char	   *value = TextDatumGetCString(id);

	check_no_array(value, to);
	switch (to)
	{
		case PST_UUID:
			return DirectFunctionCall1(uuid_in, CStringGetDatum(value));
		case PST_BIGINT:
			return DirectFunctionCall1(int8in, CStringGetDatum(value));
		case PST_TEXT:
			break;
	}
	return id;
}

/*
 * The id as the table holds it.  "table" is named in the error that uuid and
 * bigint can't be each other.
 */
Datum
pst_convert_id(Datum id, PstIdKind from, PstIdKind to, const char *table)
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
