-- Revocations that a database forgot, since it was restored, and that a node knew: taken over from the list that an issuer
-- of this installation had signed.

alter table revocation add column taken_over_at timestamptz(3);
