-- What each host added on each day, and what it was refused. No reference to
-- hosts: a row may be written for one that a rebuilt catalogue does not know.
create table host_usage (
    host_id  text not null,
    day      bigint not null,            -- since 1970-01-01, UTC
    bytes    bigint not null default 0,  -- of packs
    packs    bigint not null default 0,
    frames   bigint not null default 0,
    leases   bigint not null default 0,
    renewals bigint not null default 0,
    refused  bigint not null default 0,  -- times
    alarm    text not null default '',   -- why, the last time
    primary key (host_id, day)
);

create index if not exists host_usage_by_day on host_usage (day);

-- For the removal of old rows.
create index if not exists jobs_by_end on jobs (ended_ms);
create index if not exists sources_gone on sources (gone_ms);
create index if not exists job_sources_by_source on job_sources (source_id);
create index if not exists snapshots_by_source on snapshots (source_id);
