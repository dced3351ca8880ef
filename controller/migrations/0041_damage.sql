-- Damaged frames are few, and asked for with every status.
create index frames_damaged on frames (host) where damaged = 1;
