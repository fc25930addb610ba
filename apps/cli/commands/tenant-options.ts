/** Options that several of the tenants' subcommands have. */
import { type Command, InvalidArgumentError } from 'commander';
import type { TenantIssuer } from '#libs/tenants';
import { wholeNumber } from '../option-values.js';

/** A realm with its users took a busy Keycloak half a minute. */
const PATIENCE_S = 300;

/** `--no-wait`, `--timeout`. */
export function waitOptions(command: Command): Command {
  return command
    .option('--no-wait', 'do not wait for the jobs, which rhyzome-grpc runs')
    .option('--timeout <seconds>', 'how long to wait for each', wholeNumber(1, 86_400), PATIENCE_S);
}

/** `--issuer URL [--audience A] [--jwks-uri U] [--organization O]`, repeatable: the others belong to the issuer before them. */
export function issuerOptions(command: Command): () => TenantIssuer[] | undefined {
  const issuers: TenantIssuer[] = [];
  const last = (option: string): TenantIssuer => {
    const issuer = issuers.at(-1);
    if (!issuer) throw new InvalidArgumentError(`${option} belongs to the --issuer before it.`);
    return issuer;
  };
  command
    .option('--issuer <url>', 'issuer of the tenant’s tokens, exactly as in `iss` (may be repeated)', (issuer) => {
      issuers.push({ issuer, audience: null, jwksUri: null });
      return issuer;
    })
    .option('--audience <text>', 'what its tokens must name (default: the audience in the settings)', (text) => {
      last('--audience').audience = text;
      return text;
    })
    .option('--jwks-uri <url>', 'where its keys are (default: found by discovery)', (url) => {
      last('--jwks-uri').jwksUri = url;
      return url;
    })
    .option('--organization <name>', 'the tenant’s in `organization`, where others share the issuer', (name) => {
      last('--organization').organization = name;
      return name;
    });
  return () => (issuers.length > 0 ? issuers : undefined);
}

export function issuerWords({ issuer, audience, jwksUri, organization, managed }: TenantIssuer): string {
  const further = [
    organization && `organization ${organization}`,
    audience && `audience ${audience}`,
    jwksUri && `keys ${jwksUri}`,
    managed && 'kept by Rhyzome',
  ].filter(Boolean);
  return further.length > 0 ? `${issuer} (${further.join(', ')})` : issuer;
}
