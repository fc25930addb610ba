-- A move whose sender dies is settled by what the other node was told of it, unless the sender may have it back since.

alter table move
  -- Since when the sender is asked to have it back; what the other node has then is no longer sure to be the latest.
  add column told_back_at timestamptz(3);
