-- no-op C function
-- The limit: VOLATILE, void, one uuid, does nothing. What any call costs.

--@ call
SELECT bench_noop({id});

--@ array
SELECT bench_noop(({ids})[1]);
