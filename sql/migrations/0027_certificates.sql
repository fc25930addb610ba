-- Certificates of nodes, services and servers: tokens to enroll by, what was issued over the network, what was revoked.
-- Not tenant data: only the operator's role reaches it.

create table enrollment_token (
  id uuid primary key,
  -- SHA-256 of the token, which is shown once and kept nowhere.
  hash bytea not null unique check (length(hash) = 32),
  node_name text not null check (node_name ~ '^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$'),
  labels jsonb not null default '{}',
  created_at timestamptz(3) not null default now(),
  created_by text not null,
  expires_at timestamptz(3) not null,
  revoked_at timestamptz(3),
  -- Whoever used it: the same key gets the same certificate again while the token lives, another key does not.
  used_at timestamptz(3),
  -- SHA-256 of the public key (SubjectPublicKeyInfo).
  public_key bytea,
  serial text,
  check ((used_at is null) = (serial is null) and (used_at is null) = (public_key is null))
);
create index enrollment_token_node on enrollment_token (node_name, created_at);

-- What rhyzome-grpc issued. Certificates that were issued by hand are not here, and can be revoked nevertheless.
create table certificate (
  -- Upper hex.
  serial text primary key check (serial ~ '^[0-9A-F]{1,40}$'),
  kind text not null check (kind in ('node', 'service', 'server')),
  name text not null,
  -- PEM, with the intermediates after it.
  chain text not null,
  not_before timestamptz(3) not null,
  not_after timestamptz(3) not null,
  -- Of the moment, not of the transaction's begin: revocations are compared with it, under the holder's lock.
  issued_at timestamptz(3) not null default clock_timestamp(),
  -- `token:ID` or the identity that renewed.
  issued_by text not null,
  -- Serial of the certificate that asked for this one.
  renews text,
  source text
);
create index certificate_holder on certificate (kind, name, issued_at);
create index certificate_renews on certificate (renews) where renews is not null;
create index certificate_end on certificate (not_after);

-- One certificate, or all that a holder had up to then, known here or not.
create table revocation (
  id uuid primary key,
  serial text unique check (serial ~ '^[0-9A-F]{1,40}$'),
  kind text check (kind in ('node', 'service', 'server')),
  name text,
  reason text,
  revoked_at timestamptz(3) not null default clock_timestamp(),
  revoked_by text not null,
  unique (kind, name),
  check ((serial is null) = (kind is not null) and (kind is null) = (name is null))
);

create function notify_certificate() returns trigger language plpgsql as $$
begin
  perform pg_notify('rhyzome_certificate', '');
  return null;
end $$;
create trigger notify_certificate after insert or update or delete on revocation
  for each statement execute function notify_certificate();
-- A holder whose certificates were revoked may have got a new one since.
create trigger notify_certificate after insert on certificate
  for each statement execute function notify_certificate();

grant select, insert, update, delete on enrollment_token, certificate, revocation to rhyzome_operator;
