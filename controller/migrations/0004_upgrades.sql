-- The previous release does not run on this: it refuses a catalogue with a
-- migration it does not know, and could not read jobs of the new kinds. To go
-- back to it, go back to a copy of the catalogue from before, or rebuild it
-- from the bucket. The other way round nothing is rewritten: rows from before
-- are jobs that stand alone.

alter table jobs add column parent_id text references jobs (id);

-- What a child is for its parent: 'before', 'at-stop', 'upgrade 3', ...
alter table jobs add column role text not null default '';

-- Jobs without a parent do not meet here: nulls are all different. A parent
-- that is driven again finds the child it made instead of making another.
create unique index jobs_by_parent on jobs (parent_id, role);

-- Plans of upgrades: as they were shown, under an id of their own, and as they
-- are run, under the job's id.
create table upgrade_plans (
    id          text primary key,
    host_id     text not null references hosts (id),
    request     blob not null,   -- protobuf holdfast.v1.PlanUpgradeRequest
    plan        blob not null,   -- protobuf holdfast.v1.UpgradePlan
    fingerprint text not null,
    created_ms  bigint not null,
    actor       text not null
);

create index upgrade_plans_by_age on upgrade_plans (created_ms);
