-- prompt_stats_migrate()
-- CREATE EXTENSION adopts the tables; it is part of the preparation, as creating
-- the upsert function is on the other side.

--@ prepare
CREATE EXTENSION prompt_stats;

--@ migrate
CALL prompt_stats_migrate();
