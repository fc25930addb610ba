/** The pages of the device flow (RFC 8628, section 3.3): the code, the question whether it is one's own, and the end. */
import type { KoaContextWithOIDC } from 'oidc-provider';
import { escaped, page } from './pages.js';

/** `form` is oidc-provider's, with its protection against forged posts. */
export async function enterCodePage(
  ctx: KoaContextWithOIDC,
  form: string,
  out?: unknown,
  error?: Error,
): Promise<void> {
  const failed = out !== undefined || error !== undefined;
  const words =
    error?.name === 'AbortedError'
      ? 'The login was refused. You can close this page.'
      : failed
        ? 'This code is unknown, has expired or was used already.'
        : 'Enter the code that your device shows.';
  ctx.type = 'html';
  ctx.body = page(
    'Log in a device',
    `<p>${words}</p>${form}<button type="submit" form="op.deviceInputForm">Go on</button>`,
  );
}

export async function confirmPage(
  ctx: KoaContextWithOIDC,
  form: string,
  client: { clientName?: string; clientId?: string },
  _deviceInfo: unknown,
  userCode: string,
): Promise<void> {
  const name = escaped(client.clientName ?? client.clientId ?? '');
  ctx.type = 'html';
  ctx.body = page(
    'Log in a device',
    `<p>Does your device show <code>${escaped(userCode)}</code>? Then ${name} gets your rights.</p>${form}
<button type="submit" form="op.deviceConfirmForm">Yes, go on</button>
<button type="submit" form="op.deviceConfirmForm" name="abort" value="yes">No</button>`,
  );
}

export async function successPage(ctx: KoaContextWithOIDC): Promise<void> {
  ctx.type = 'html';
  ctx.body = page('Logged in', '<p>Your device is logged in. You can close this page.</p>');
}
