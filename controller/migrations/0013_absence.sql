-- What is given up on purpose, and what tells that something went away.

alter table hosts add column retired_ms bigint;       -- given up; null: it is missed when it is away
alter table join_tokens add column retired_ms bigint; -- void: no host is awaited with it any more
alter table sources add column retired_ms bigint;     -- given up; null: it is missed when it is gone

-- How large the source was; null where it is not known or not to be compared.
alter table snapshots add column entries bigint;
alter table snapshots add column size_bytes bigint;
-- The operator accepted that the source is small: older snapshots are no measure any more.
alter table snapshots add column shrink_accepted integer not null default 0;

-- Directories of a host that its running containers mount.
create table binds (
    host_id       text not null references hosts (id),
    path          text not null,
    read_only     integer not null,  -- in every container that mounts it
    containers    text not null,     -- JSON array of names
    first_seen_ms bigint not null,
    last_seen_ms  bigint not null,
    gone_ms       bigint,            -- no running container mounts it
    retired_ms    bigint,            -- it is not to be protected
    primary key (host_id, path)
);
