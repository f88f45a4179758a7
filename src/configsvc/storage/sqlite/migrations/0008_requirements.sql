-- Which flags require which: a row for each prerequisite of each live flag, so that the flags that require a deleted one are
-- found without reading all others. The rows have no checksum. The index repeats every column, so a row that the disk altered
-- differs from the index, and SQLite's own check finds it.
CREATE TABLE requirements (
    environment TEXT NOT NULL,
    dependent TEXT NOT NULL,
    required TEXT NOT NULL,
    PRIMARY KEY (environment, dependent, required)
) STRICT, WITHOUT ROWID;
CREATE INDEX requirements_by_required ON requirements (environment, required, dependent);

CREATE TRIGGER keep_requirements_of_new AFTER INSERT ON records WHEN NEW.kind = 'flag' BEGIN
    INSERT OR IGNORE INTO requirements
        SELECT NEW.environment, NEW.key, json_extract(p.value, '$.flag_name')
        FROM json_each(NEW.body, '$.prerequisites') AS p
        WHERE p.type = 'object' AND json_type(p.value, '$.flag_name') = 'text';
END;

CREATE TRIGGER keep_requirements AFTER UPDATE ON records WHEN NEW.kind = 'flag' BEGIN
    DELETE FROM requirements WHERE environment = NEW.environment AND dependent = NEW.key;
    INSERT OR IGNORE INTO requirements
        SELECT NEW.environment, NEW.key, json_extract(p.value, '$.flag_name')
        FROM json_each(NEW.body, '$.prerequisites') AS p
        WHERE p.type = 'object' AND json_type(p.value, '$.flag_name') = 'text';
END;

INSERT OR IGNORE INTO requirements
    SELECT r.environment, r.key, json_extract(p.value, '$.flag_name')
    FROM records AS r, json_each(r.body, '$.prerequisites') AS p
    WHERE r.kind = 'flag' AND p.type = 'object' AND json_type(p.value, '$.flag_name') = 'text';
