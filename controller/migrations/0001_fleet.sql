-- Portable SQL: text ids, integer milliseconds since the Unix epoch, integers for booleans.

create table settings (
    name  text primary key,
    value text not null
);

create table hosts (
    id                  text primary key,
    name                text not null unique,
    labels              text not null default '{}', -- JSON object of strings
    joined_ms           bigint not null,
    revoked_ms          bigint,
    last_seen_ms        bigint,
    certificate_serial  text,
    previous_serial     text,     -- accepted until the newer certificate is first used
    certificate_not_after_ms bigint,
    instance_id         text,
    agent               blob,                       -- protobuf holdfast.v1.Agent, as last reported
    clock_skew_ms       bigint not null default 0
);

-- Serial numbers of certificates that are refused although they have not expired.
create table denied_certificates (
    serial    text primary key,
    host_id   text not null references hosts (id),
    denied_ms bigint not null
);

create table join_tokens (
    hash       text primary key, -- SHA-256 of the token's secret, hexadecimal
    host_name  text not null,
    labels     text not null default '{}',
    created_ms bigint not null,
    expires_ms bigint not null,
    used_ms    bigint
);

create table operators (
    name       text primary key,
    token_hash text not null unique, -- SHA-256, hexadecimal
    role       text not null,        -- viewer | operator | restorer | admin
    created_ms bigint not null,
    revoked_ms bigint
);

create table audit (
    number     integer primary key,
    at_ms      bigint not null,
    actor      text not null,
    action     text not null,  -- the RPC or command
    subject    text not null,
    outcome    text not null,  -- allowed | ok | denied | failed
    detail     text not null default '',
    chain      text not null   -- SHA-256 over the previous row's chain and this row
);

create table sources (
    id           text primary key,
    host_id      text not null references hosts (id),
    kind         text not null,  -- volume | directory
    name         text not null,
    driver       text not null default '',
    labels       text not null default '{}',
    anonymous    integer not null default 0, -- named by the Engine
    used         integer not null default 0, -- some container refers to it
    first_seen_ms bigint not null,
    last_seen_ms bigint not null,
    gone_ms      bigint,         -- no longer on the host
    unique (host_id, kind, name)
);
