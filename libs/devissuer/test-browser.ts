/** For tests: a browser as far as it is needed. Keeps cookies, follows redirects, fills in and sends forms. */

export interface Shown {
  /** Of the last answer, after all redirects that could be followed. */
  url: string;
  status: number;
  text: string;
}

export class Browser {
  private readonly cookies = new Map<string, string>();

  /** One request; redirects are the caller's. */
  async go(url: string, init: RequestInit = {}): Promise<Response> {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(url, { ...init, redirect: 'manual', headers: { cookie } });
    for (const line of response.headers.getSetCookie()) {
      const pair = line.split(';')[0]!;
      const at = pair.indexOf('=');
      const [name, value] = [pair.slice(0, at), pair.slice(at + 1)];
      if (value === '') this.cookies.delete(name);
      else this.cookies.set(name, value);
    }
    return response;
  }

  /** Follows redirects to the page at their end. */
  async visit(url: string, init: RequestInit = {}): Promise<Shown> {
    let response = await this.go(url, init);
    let at = url;
    for (let hop = 0; response.status >= 300 && response.status < 400 && hop < 10; hop++) {
      at = new URL(response.headers.get('location')!, at).href;
      response = await this.go(at);
    }
    return { url: at, status: response.status, text: await response.text() };
  }
}

/** Sends the page's first form with its hidden fields and these; gives the page that follows. */
export async function submit(browser: Browser, page: Shown, fields: Record<string, string> = {}): Promise<Shown> {
  const form = /<form[^>]*>/i.exec(page.text)?.[0];
  if (!form) throw new Error(`no form on ${page.url}:\n${page.text}`);
  const action = attribute(form, 'action') ?? page.url;
  const hidden = [...page.text.matchAll(/<input[^>]*type="hidden"[^>]*>/gi)].map(([input]) => [
    attribute(input, 'name') ?? '',
    attribute(input, 'value') ?? '',
  ]);
  const body = new URLSearchParams({ ...Object.fromEntries(hidden), ...fields });
  return browser.visit(new URL(action, page.url).href, { method: 'POST', body });
}

function attribute(tag: string, name: string): string | undefined {
  const value = new RegExp(`\\b${name}="([^"]*)"`, 'i').exec(tag)?.[1];
  return value?.replaceAll(/&#(\d+);/g, (_, code) => String.fromCharCode(Number(code))).replaceAll('&amp;', '&');
}
