-- What a token is good for, and until when.

alter table operators add column expires_ms bigint;        -- null: it does not
alter table operators add column last_used_ms bigint;      -- not to the call: noted now and then
alter table operators add column hosts text not null default '[]'; -- JSON array: labels of hosts, all of them; none: every host
