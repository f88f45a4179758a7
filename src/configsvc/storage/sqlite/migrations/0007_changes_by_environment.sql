-- For the search of an environment's changes.
CREATE INDEX changes_by_environment ON changes (environment, revision);
