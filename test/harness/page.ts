/**
 * What a page says about requests: the commands of its ```console blocks with the output that follows each; and, in HTML
 * comments, what must be there before (`<!-- given: … -->`, commands) and why a block is not run (`<!-- not run: … -->`).
 */

/** One thing that a page asks for, in its order. */
export type Entry =
  | { is: 'given'; line: number; command: string }
  | { is: 'request'; line: number; command: string; shown: string; notRun: string | undefined };

/** Reads a page. Throws, with the line, for what it cannot read: nothing is left out silently. */
export function readPage(markdown: string): Entry[] {
  const entries: Entry[] = [];
  const blocks = /^<!-- (given|not run): *([\s\S]*?)-->$|^```console\n([\s\S]*?)^```$/gm;
  let notRun: { reason: string; end: number } | undefined;
  for (const match of markdown.matchAll(blocks)) {
    const line = markdown.slice(0, match.index).split('\n').length;
    const [whole, comment, inside, block] = match;
    if (comment === 'given')
      entries.push(...commands(inside!, line).map((command): Entry => ({ is: 'given', ...command })));
    else if (comment) notRun = { reason: inside!.trim(), end: match.index + whole.length };
    else {
      const skipped = notRun && markdown.slice(notRun.end, match.index).trim() === '' ? notRun.reason : undefined;
      entries.push(...requests(block!, line + 1, skipped));
      notRun = undefined;
    }
    if (comment === 'not run' && !notRun?.reason) throw new Error(`line ${line}: the reason is missing`);
  }
  const fences = markdown.match(/^```console/gm)?.length ?? 0;
  if (fences !== (markdown.match(/^```console\n[\s\S]*?^```$/gm)?.length ?? 0)) throw new Error('a block has no end');
  return entries;
}

/** The commands of a comment, which show nothing. */
function commands(text: string, line: number): { line: number; command: string }[] {
  const found: { line: number; command: string }[] = [];
  let command = '';
  for (const next of text.trim().split('\n')) {
    command += command ? `\n${next}` : next;
    if (unfinished(command)) continue;
    if (command.trim()) found.push({ line, command });
    command = '';
  }
  if (command) throw new Error(`line ${line}: a command has no end: ${command}`);
  return found;
}

/** `$ ` begins a command; what is quoted or ends in a backslash goes on in the next line. */
function requests(block: string, first: number, notRun: string | undefined): Entry[] {
  const found: Extract<Entry, { is: 'request' }>[] = [];
  for (const [index, text] of block.replace(/\n$/, '').split('\n').entries()) {
    const last = found.at(-1);
    if (last && unfinished(last.command)) last.command += `\n${text}`;
    else if (text.startsWith('$ ')) {
      found.push({ is: 'request', line: first + index, command: text.slice(2), shown: '', notRun });
    } else if (last) last.shown += last.shown ? `\n${text}` : text;
    else throw new Error(`line ${first}: output without a command`);
  }
  return found;
}

/** Whether a shell would wait for more: an open quote, or a backslash at the end. */
function unfinished(command: string): boolean {
  const rest = command.replaceAll(/\\[\s\S]|'[^']*'|"(?:[^"\\]|\\[\s\S])*"/g, (part) => (part === '\\\n' ? '' : 'x'));
  return /['"]/.test(rest) || command.endsWith('\\');
}
