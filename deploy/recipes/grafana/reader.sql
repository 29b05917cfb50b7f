-- A user for Grafana, who reads what `sensor-node store` stores and changes nothing. Run it as the
-- owner of the tables, after the first start of store:
--   psql postgresql://store@127.0.0.1/sensors -f reader.sql
-- and give the user a password: \password grafana
CREATE ROLE grafana LOGIN;
GRANT USAGE ON SCHEMA sensor_node TO grafana;
GRANT SELECT ON ALL TABLES IN SCHEMA sensor_node TO grafana;
-- What a newer version adds:
ALTER DEFAULT PRIVILEGES IN SCHEMA sensor_node GRANT SELECT ON TABLES TO grafana;
