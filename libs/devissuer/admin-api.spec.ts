/** The development issuer's admin API, restarted all the while. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from 'vitest';
import { type AdminTarget, adminApiContract, masterToken } from './admin-api.contract.js';
import { type DevIssuer, startIssuer } from './index.js';

async function development(): Promise<AdminTarget> {
  const dataDir = await mkdtemp(join(tmpdir(), 'devissuer-'));
  let issuer: DevIssuer = await startIssuer({ port: 0, tenants: [], dataDir });
  const { clientId: client_id, clientSecret: client_secret } = issuer.admin;
  const stop = async () => {
    await issuer.stop();
    await rm(dataDir, { recursive: true, force: true });
  };
  const token = async () => {
    // What is answered is on disk: each look at it may as well be after a restart.
    await issuer.stop();
    issuer = await startIssuer({ port: 0, tenants: [], dataDir });
    return masterToken(issuer.url, { grant_type: 'client_credentials', client_id, client_secret });
  };
  return { url: issuer.url, token, stop };
}

describe('the development issuer', () => adminApiContract(development));
