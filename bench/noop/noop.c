/*
 * noop.c
 *	  The cheapest call there is, and ids that can be had without a look-up.
 *
 * bench_noop() is the limit that every contender is held against. It has to be
 * declared VOLATILE: an immutable one is folded away by the planner and
 * measures nothing.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/uuid.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_noop);
PG_FUNCTION_INFO_V1(bench_prompt);

/* bench_noop(uuid) returns void */
Datum
bench_noop(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}

/*
 * bench_prompt(n bigint) returns uuid: the id of the n-th prompt.
 *
 * pgbench draws numbers, the tables hold uuids. Hashed, so that neighbours in
 * popularity are no neighbours in the index, as with gen_random_uuid(). The
 * number itself is in the last eight bytes, so no two prompts collide.
 */
Datum
bench_prompt(PG_FUNCTION_ARGS)
{
	uint64		n = (uint64) PG_GETARG_INT64(0);
	uint64		hash = hash_bytes_uint32_extended((uint32) n, n >> 32);
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	memcpy(id->data, &hash, sizeof(hash));
	memcpy(id->data + sizeof(hash), &n, sizeof(n));
	PG_RETURN_UUID_P(id);
}
