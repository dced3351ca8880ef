-- What the wall clock said at which tick, about once a day: rows go by age only
-- when a controller has run for as long as they are old.
create table clock_marks (
    tick  integer primary key,
    at_ms bigint not null
);
