-- What of Holdfast itself a source is; empty for everybody else's. Such a source
-- is never backed up and never missed.
alter table sources add column own text not null default '';
