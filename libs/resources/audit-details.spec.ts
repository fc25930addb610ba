/** What the audit says of a change, and what it must not. */
import { describe, expect, test } from 'vitest';
import { auditDetails } from './audit-details.js';
import type { KindDefinition } from './kind.js';

const kind = { name: 'thing', audited: ['role', 'scopes'] } as unknown as KindDefinition;

describe('details of a change', () => {
  test('name every field that changed, with the values of those that are fit to be read', () => {
    const previous = { name: 'a', tags: { k: 'v' }, role: 'viewer', userData: 'old secret', size: 1 };
    const document = { name: 'b', tags: { k: 'v' }, role: 'admin', userData: 'new secret', sshKeys: ['key'] };
    const details = auditDetails(kind, { previous, document });
    expect(details).toEqual({
      changed: ['name', 'role', 'size', 'sshKeys', 'userData'],
      values: { name: { from: 'a', to: 'b' }, role: { from: 'viewer', to: 'admin' } },
    });
    expect(JSON.stringify(details)).not.toContain('secret');
  });

  test('of what is made or done tell the audited fields only, and nothing where there are none', () => {
    expect(auditDetails(kind, { document: { name: 'a', role: 'viewer', password: 'secret', scopes: [] } })).toEqual({
      values: { role: 'viewer', scopes: [] },
    });
    expect(auditDetails(kind, { body: { password: 'secret' } })).toBeUndefined();
    expect(auditDetails(kind, {})).toBeUndefined();
    expect(auditDetails({ name: 'plain' } as KindDefinition, { document: { name: 'a' } })).toBeUndefined();
  });

  test('leave out values that are long', () => {
    expect(auditDetails(kind, { document: { role: 'x'.repeat(3_000), scopes: ['a:b'] } })).toEqual({
      values: { scopes: ['a:b'] },
    });
  });
});
