/**
 * The login page of the development issuer: a name and a password; a one-time password has to be changed before anybody is
 * logged in. A browser uses it as it stands; a test posts the same fields, which are named as in Keycloak's forms.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type Provider from 'oidc-provider';
import type { RealmDirectory } from './directory.js';
import { escaped, page, readForm, sendPage } from './pages.js';

/** Answers GET (the form) and POST (a login) of /realms/{realm}/interaction/{uid}. */
export async function serveLogin(
  provider: Provider,
  directory: RealmDirectory,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { prompt } = await provider.interactionDetails(request, response);
  if (prompt.name !== 'login') {
    await provider.interactionFinished(request, response, { error: 'access_denied' });
    return;
  }
  if (request.method !== 'POST') return sendPage(response, 200, loginPage(directory, ''));
  const form = await readForm(request);
  const username = form.get('username') ?? form.get('login') ?? '';
  const password = form.get('password') ?? '';
  const outcome = await directory.logIn(username, password);
  if (!outcome) return sendPage(response, 401, loginPage(directory, 'Unknown user or wrong password.'));
  if (outcome.mustChange) {
    const fresh = form.get('password-new');
    const words = fresh === null ? 'You need to change your password.' : refusalOf(fresh, password, form, directory);
    // The one-time password goes along, since nothing but it proves who changes it.
    if (fresh === null || words) return sendPage(response, 200, changePage(username, password, words));
    await directory.changePassword(outcome.accountId, fresh);
  }
  await provider.interactionFinished(request, response, { login: { accountId: outcome.accountId } });
}

/** '' where the new password will do. */
function refusalOf(fresh: string, old: string, form: URLSearchParams, directory: RealmDirectory): string {
  const { minPasswordLength: least } = directory;
  if (fresh.length < least) return `A password has at least ${least} characters.`;
  if (fresh === old) return 'The new password is the old one.';
  return fresh === form.get('password-confirm') ? '' : 'The two passwords differ.';
}

function loginPage(directory: RealmDirectory, message: string): string {
  const options = directory.loginNames.map(
    ({ username, name }) => `<option value="${escaped(username)}">${escaped(name)}</option>`,
  );
  return page(
    'Development login',
    `<form method="post"><p>${escaped(message)}</p>
<p><input name="username" list="users" placeholder="user" required autofocus autocomplete="username">
<datalist id="users">${options.join('')}</datalist>
<input type="password" name="password" placeholder="password" required> <button>Sign in</button></p></form>`,
  );
}

function changePage(username: string, password: string, message: string): string {
  return page(
    'Update password',
    `<form method="post"><p>${escaped(message)}</p>
<input type="hidden" name="username" value="${escaped(username)}">
<input type="hidden" name="password" value="${escaped(password)}">
<p><input type="password" name="password-new" placeholder="new password" required autofocus>
<input type="password" name="password-confirm" placeholder="again" required> <button>Submit</button></p></form>`,
  );
}
