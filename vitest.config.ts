import { readFileSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

// One map of the workspace's names to their sources: tsconfig.json's `paths`.
const { compilerOptions } = JSON.parse(readFileSync(new URL('tsconfig.json', import.meta.url), 'utf8')) as {
  compilerOptions: { paths: Record<string, [string]> };
};
const alias = Object.entries(compilerOptions.paths).map(([name, [file]]) => ({
  find: new RegExp(`^${name.replaceAll('/', '\\/')}$`),
  replacement: new URL(file, import.meta.url).pathname,
}));

export default defineConfig({
  resolve: { alias },
  test: {
    projects: [
      { extends: true, test: { name: 'unit', include: ['packages/*/src/**/*.test.ts'], testTimeout: 10_000 } },
      // These start real servers: one file at a time, since two cores are shared.
      { extends: true, test: { name: 'system', include: ['test/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 120_000, fileParallelism: false } },
    ],
  },
});
