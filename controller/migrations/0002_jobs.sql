create table policies (
    name        text primary key,
    enabled     integer not null default 1,
    definition  text not null,   -- the TOML as applied
    applied_ms  bigint not null,
    since_ms    bigint not null  -- fires at or before this are none of its own
);

-- One firing of one policy, or one backup started by hand.
create table runs (
    id         text primary key,
    policy     text,
    fire_ms    bigint,           -- null for one started by hand
    created_ms bigint not null,
    outcome    text not null default 'created', -- created | missed
    detail     text not null default '',
    unique (policy, fire_ms)
);

create table jobs (
    id          text primary key,
    run_id      text references runs (id),
    policy      text not null default '',
    kind        text not null,   -- backup | restore | prune
    host_id     text references hosts (id),
    state       text not null,   -- queued | running | succeeded | partial | failed | cancelled
    generation  bigint not null default 0,
    owner       text,            -- controller instance that drives it
    attempt     integer not null default 0,
    not_before_ms bigint not null default 0,
    actor       text not null,
    parameters  text not null,   -- JSON, by kind
    result      blob,            -- protobuf holdfast.v1.Job: restore, prune and quiesced only
    step        text not null default '',
    error_code  text not null default '',
    error       text not null default '',
    cancel_requested integer not null default 0,
    created_ms  bigint not null,
    started_ms  bigint,
    ended_ms    bigint,
    unique (run_id, host_id)
);

create index jobs_by_state on jobs (state, host_id);
create index jobs_by_policy on jobs (policy, host_id, created_ms);

create table job_sources (
    job_id    text not null references jobs (id),
    source_id text not null references sources (id),
    state     blob not null,     -- protobuf holdfast.v1.JobSource
    primary key (job_id, source_id)
);

create table job_events (
    job_id   text not null references jobs (id),
    sequence bigint not null,
    at_ms    bigint not null,
    message  text not null,
    primary key (job_id, sequence)
);
