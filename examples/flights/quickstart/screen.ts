// The quickstart's terminal: 80 columns, plain where it is no terminal.
const tty = process.stdout.isTTY === true && !process.env.NO_COLOR;
const style = (code: number, text: string) => (tty ? `\x1b[${code}m${text}\x1b[0m` : text);
let step = 0;
let failed = 0;
let onProgressLine = false;

export const failures = (): number => failed;

export function title(text: string): void {
  endProgress();
  console.log(`\n${style(1, `${++step}  ${text}`)}`);
}

export function say(line: string): void {
  endProgress();
  for (const part of wrapped(line, 77)) console.log(`   ${part}`);
}

/** A thing that must be so; what isn't fails the run. */
export function check(holds: boolean, what: string, text: string): void {
  endProgress();
  if (!holds) failed++;
  const [first = '', ...rest] = wrapped(text, 56);
  console.log(`   ${holds ? style(32, '✓') : style(31, '✗')} ${what.padEnd(17)} ${first}`);
  for (const part of rest) console.log(`${' '.repeat(23)}${part}`);
}

/** On a terminal one line that grows, elsewhere a line a step. */
export function progress(what: string, count: number, of: number, more = ''): void {
  const filled = Math.round((count / of) * 30);
  const text = `   ${what} ${'█'.repeat(filled)}${'░'.repeat(30 - filled)} ${count.toLocaleString('en').padStart(7)}  ${more}`;
  if (tty) process.stdout.write(`\r${text}\x1b[K`);
  else if (count === of || what === 'produced') console.log(text);
  onProgressLine = tty;
}

function endProgress(): void {
  if (onProgressLine) process.stdout.write('\n');
  onProgressLine = false;
}

function wrapped(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines[lines.length - 1] ?? '';
    if (last !== '' && last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines;
}
