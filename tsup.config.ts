import { existsSync, readFileSync } from 'node:fs';
import { defineConfig } from 'tsup';

// Run in a package's folder: what package.json exports (and its bin) is what gets built, `./dist/x.js` from `src/x.ts`.
const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as { exports: Record<string, { default?: string } | string>; bin?: Record<string, string> };
const targets = [...Object.values(manifest.exports).map((e) => (typeof e === 'string' ? e : (e.default ?? ''))), ...Object.values(manifest.bin ?? {})];
const sources = targets.filter((t) => t.startsWith('./dist/')).map((t) => t.replace('./dist/', 'src/').replace(/\.js$/, '.ts'));

export default defineConfig({
  entry: sources.filter((s) => existsSync(s)),
  format: 'esm',
  target: 'node22',
  platform: 'node',
  splitting: true,
  sourcemap: true,
  clean: true,
  dts: { entry: sources.filter((s) => existsSync(s) && !s.endsWith('/cli.ts')) },
});
