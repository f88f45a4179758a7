-- Which flags require which: a row for each prerequisite of each live flag, so that the flags that require a deleted one are
-- found without reading all others. A trigger keeps it, so that it is right whichever release writes the flag.
CREATE TABLE configsvc.requirements (
    environment text COLLATE "C" NOT NULL,
    dependent text COLLATE "C" NOT NULL,
    required text COLLATE "C" NOT NULL,
    PRIMARY KEY (environment, dependent, required)
);
CREATE INDEX requirements_by_required ON configsvc.requirements (environment, required, dependent);

-- The flags that a flag with this body requires. JSON functions refuse \u0000, which a description may hold and a name can't.
CREATE FUNCTION configsvc.required_flags(body text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
    SELECT DISTINCT p.value ->> 'flag_name'
    FROM (SELECT replace(body, '\u0000', '\ufffd')::json -> 'prerequisites' AS list) AS l,
        json_array_elements(CASE json_typeof(l.list) WHEN 'array' THEN l.list ELSE '[]' END) AS p
    WHERE p.value ->> 'flag_name' IS NOT NULL
$$;

CREATE FUNCTION configsvc.keep_requirements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM configsvc.requirements AS r WHERE r.environment = NEW.environment AND r.dependent = NEW.key;
    INSERT INTO configsvc.requirements
        SELECT NEW.environment, NEW.key, f.name FROM configsvc.required_flags(NEW.body) AS f (name);
    RETURN NULL;
END
$$;

-- This locks the table against other writers until the rows of all flags are made, too.
CREATE TRIGGER keep_requirements AFTER INSERT OR UPDATE ON configsvc.records
    FOR EACH ROW WHEN (NEW.kind = 'flag') EXECUTE FUNCTION configsvc.keep_requirements();

INSERT INTO configsvc.requirements
    SELECT r.environment, r.key, f.name
    FROM configsvc.records AS r CROSS JOIN configsvc.required_flags(r.body) AS f (name)
    WHERE r.kind = 'flag';
