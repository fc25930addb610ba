/** Every link within the documentation leads somewhere: to a file that is there, and to a heading that is in it. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, resolve } from 'node:path';
import { expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '..');
/** Not the templates: their links hold where they are written to. */
const pages = globSync(['*.md', 'docs/**/*.md', 'libs/kinds/*/README.md'], { cwd: root });

/** Without what is shown as code. */
const text = (page: string) => readFileSync(join(root, page), 'utf8').replaceAll(/^```[\s\S]*?^```/gm, '');

/** A page's anchors, as forges make them of its headings. */
function anchors(page: string): Set<string> {
  const headings = [...text(page).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => heading!);
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replaceAll(/\]\([^)]*\)/g, '')
        .replaceAll(/[^\p{L}\p{N}_ -]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );
}

it.each(pages)('%s has no link into nothing', (page) => {
  const dead: string[] = [];
  for (const [, link] of text(page).matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(link!)) continue;
    const [path = '', anchor] = link!.split('#');
    const target = path ? normalize(join(dirname(page), path)) : page;
    if (!existsSync(join(root, target))) dead.push(link!);
    else if (anchor && target.endsWith('.md') && !anchors(target).has(anchor)) dead.push(link!);
  }
  expect(dead).toEqual([]);
});

it('there are pages', () => expect(pages.length).toBeGreaterThan(30));
