-- What was refused to callers that nobody knows is a chain of its own, so that
-- it can go sooner than what hosts and operators did, and cover none of that.
create table audit_anonymous (
    number     integer primary key,
    at_ms      bigint not null,
    actor      text not null,
    action     text not null,
    subject    text not null,
    outcome    text not null,
    detail     text not null default '',
    chain      text not null   -- SHA-256 over the previous row's chain and this row
);

create index if not exists audit_by_time on audit (at_ms);
create index if not exists audit_anonymous_by_time on audit_anonymous (at_ms);
