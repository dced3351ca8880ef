-- The repository: what the bucket holds and who keeps it. No row here refers
-- to hosts or sources, because a rebuilt catalogue knows snapshots first.

create table repository (
    one           integer primary key check (one = 1),
    repository_id text not null,
    owner         text not null,
    commit_number bigint not null default 0,
    ticks         bigint not null default 0, -- counted by a running controller, never by the clock
    next_lease    bigint not null default 1,
    next_pack     bigint not null default 1,
    next_frame    bigint not null default 0,
    orphan_cursor text not null default '',
    suspended     text not null default ''   -- why collection and deduplication are off
);

create table snapshots (
    commit_number  integer primary key, -- repository-wide, only grows
    host_id        text not null,
    source_id      text not null,
    number         bigint not null,
    state          text not null,       -- committing | committed | forgotten | purging
    job_id         text not null,
    created_ms     bigint not null,
    root           blob not null,       -- 32 bytes
    host_name      text not null,
    source_kind    text not null,
    source_name    text not null,
    partial        integer not null,
    held           integer not null default 0,
    forgotten_tick bigint,
    purge_after_ms bigint,
    verified_ms    bigint,
    unique (host_id, source_id, number)
);

create index snapshots_by_job on snapshots (job_id, source_id);
create index snapshots_by_state on snapshots (state);

-- Large values apart, so that listing snapshots does not walk over them.
create table snapshot_blobs (
    commit_number integer primary key references snapshots (commit_number) on delete cascade,
    body          blob not null, -- the agent's, as in the snapshot object
    frames        blob not null  -- roaring bitmap of frame numbers, pages included
);

-- Numbers are never given twice, so they outlive their snapshots.
create table snapshot_numbers (
    host_id   text not null,
    source_id text not null,
    highest   bigint not null,
    primary key (host_id, source_id)
);

create table leases (
    number       integer primary key,
    id           text not null unique,
    kind         text not null,             -- upload | restore
    job_id       text not null,
    generation   bigint not null,
    host_id      text not null,
    source_id    text not null,             -- empty for a restore
    snapshot     bigint,                    -- base, or what is restored: its commit number
    opened_tick  bigint not null,
    renewed_tick bigint not null,
    ended_tick   bigint,
    committed    integer not null default 0
);

create index leases_by_job on leases (job_id, source_id);
create index leases_open on leases (ended_tick);

create table packs (
    number          integer primary key,
    id              text not null unique,
    host_id         text not null,
    lease           bigint not null,            -- number of its lease; 0 for one found in the bucket
    state           text not null,              -- intended | live | condemned | deleting
    length          bigint not null,
    suspect         integer not null default 0, -- known from before a gap in the catalogue's memory
    condemned_lease bigint                      -- number of the newest lease when it was condemned
);

create index packs_by_state on packs (state, number);
create index packs_by_lease on packs (lease, state);

-- Hosts by a short number: frames are many.
create table frame_hosts (
    number  integer primary key,
    host_id text not null unique
);

create table frames (
    number       integer primary key, -- never given twice
    host         bigint not null,
    id           blob not null,       -- 32 bytes
    pack         bigint not null,
    kind         integer not null,    -- 1 data, 2 page
    key_epoch    bigint not null,
    pack_offset  bigint not null,
    stored_bytes bigint not null,
    raw_bytes    bigint not null,
    damaged      integer not null default 0,
    unique (host, id)
);

create index frames_by_pack on frames (pack);

-- What a manifest page refers to, as bitmaps of frame numbers. Only a cache.
create table page_refs (
    frame integer primary key,
    pages blob not null,
    data  blob not null
);

-- Objects that no row accounts for, and when that was first seen.
create table orphans (
    name      text primary key,
    seen_tick bigint not null
);
