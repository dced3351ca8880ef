-- What the bucket was found to lack, and where a pack's table lies once more.

-- Why nothing is deleted although the catalogue agrees with the bucket: empty,
-- or a sentence.
alter table repository add column collection_off text not null default '';

-- Numbers of files under index/ are never used twice.
alter table repository add column next_index bigint not null default 1;

-- What the last reconciliation missed. A row that is here was shown to whoever
-- ran it.
create table losses (
    object   text primary key,          -- 'snapshot <id>'
    frames   bigint not null,           -- how many it lacks; the largest number: the object itself
    accepted bigint not null default 0  -- up to so many an operator has given up
);

-- The file under index/ that holds the pack's table; null: none yet.
alter table packs add column hint bigint;

create index packs_by_hint on packs (hint, state);

create table index_files (
    number integer primary key,
    packs  bigint not null -- when it was written
);
