"""What a million counts leave behind: dead row versions, a larger table, WAL.

Which contender is slow does not matter here, so the counts are made by sessions
that loop in the server, each count with a COMMIT of its own. Autovacuum is off
meanwhile: what it would have to clean is the figure.
"""
from lib import load, server

SESSIONS, BATCH = 8, 500

LOOP = """
CREATE OR REPLACE PROCEDURE bench_loop(calls integer, prompts bigint) LANGUAGE plpgsql AS $$
DECLARE
	id uuid;
BEGIN
	FOR i IN 1..calls LOOP
		id := bench_prompt(floor(power(prompts, random()))::bigint);
		{call}
		COMMIT;
	END LOOP;
END $$"""

LEFT_ALONE = """
SELECT format('ALTER TABLE %s SET (autovacuum_enabled = off)', oid::regclass)
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \\gexec
VACUUM"""

SIZE = """
CREATE EXTENSION IF NOT EXISTS pgstattuple;
SELECT coalesce(sum(pg_total_relation_size(oid)), 0), coalesce(sum((pgstattuple(oid)).dead_tuple_count), 0)
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""


def able(contenders):
    # The SQL upsert, the bare UPDATE and our mode transaction leave what the PL/pgSQL upsert leaves.
    return [c for c in contenders if "total" in c.parts
            and c.name not in ("upsert_sql", "update", "prompt_stats_transaction")]


def measure(counts, contender, prompts, results):
    database = contender.database
    call = contender.parts["call"].replace("{id}", "id")
    if call.startswith("SELECT "):
        call = "PERFORM " + call.removeprefix("SELECT ")
    server.psql(database, LOOP.replace("{call}", call))
    server.psql(database, LEFT_ALONE)

    size, dead = sizes(database)
    before, wal = contender.total(), contender.wal_position()
    batches = counts // (SESSIONS * BATCH)
    with contender.at_work():
        done = load.pgbench(database, f"CALL bench_loop({BATCH}, {prompts})", SESSIONS, ["-t", str(batches)],
                            {"synchronous_commit": "off", **contender.settings}, prepared=False)
    contender.settle()
    wal = contender.wal_position() - wal
    told = done["processed"] * BATCH
    grown, died = (now - then for now, then in zip(sizes(database), (size, dead)))
    results.add("storage", contender.name, SESSIONS, 1, {
        "processed": told, "failed": done["failed"], "size_before_bytes": size, "grown_bytes": grown,
        "dead_rows": died, "wal_bytes_a_count": wal / told,
        # After the sizes: who reads a table prunes its pages.
        "off": contender.settled()[1] - before - told})


def sizes(database):
    """Bytes, and dead row versions; those that a snapshot keeps are dead, too."""
    return [int(x) for x in server.psql(database, SIZE).split("|")]


def dead_rows(database):
    return sizes(database)[1]
