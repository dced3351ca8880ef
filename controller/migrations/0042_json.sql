-- Kept as JSON: job results, sources of jobs, plans of upgrades, agents. What
-- was kept in the messages of the wire goes with its columns.
alter table jobs drop column result;
alter table jobs add column result text;    -- JSON; null: nothing is known yet

drop table job_sources;
create table job_sources (
    job_id    text not null references jobs (id),
    source_id text not null references sources (id),
    state     text not null,                -- JSON
    primary key (job_id, source_id)
);
create index job_sources_by_source on job_sources (source_id);

delete from upgrade_plans;
alter table upgrade_plans drop column request;
alter table upgrade_plans drop column plan;
alter table upgrade_plans add column request text not null default '{}'; -- JSON
alter table upgrade_plans add column plan text not null default '{}';    -- JSON

-- Reported anew with the next connection.
alter table hosts drop column agent;
alter table hosts add column agent text;    -- JSON, as last reported
