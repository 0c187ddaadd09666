// Which packages' `dist` is older than what it is built from. Plain JavaScript for Node 20.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';

/** Packages in the order in which they are built: each after those it depends on. */
export function buildOrder(root) {
  const folder = path.join(root, 'packages');
  const manifests = readdirSync(folder)
    .filter((name) => existsSync(path.join(folder, name, 'package.json')))
    .map((name) => ({ name, manifest: JSON.parse(readFileSync(path.join(folder, name, 'package.json'), 'utf8')) }));
  const ours = new Map(manifests.map((m) => [m.manifest.name, m]));
  const ordered = [];
  const visit = ({ name, manifest }) => {
    if (ordered.includes(name)) return;
    for (const dependency of Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })) {
      const package_ = ours.get(dependency);
      if (package_) visit(package_);
    }
    ordered.push(name);
  };
  for (const m of manifests) visit(m);
  return ordered;
}

/** A package is stale when a source of it, the build's own settings, or a package that it builds on is newer than its dist. */
export function staleBuild(root, order = buildOrder(root)) {
  const settings = ['tsup.config.ts', 'tsconfig.base.json'].map((f) => mtime(path.join(root, f)));
  const stale = [];
  for (const name of order) {
    const folder = path.join(root, 'packages', name);
    const manifest = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
    const newest = Math.max(...settings, newestIn(path.join(folder, 'src')), mtime(path.join(folder, 'package.json')));
    const dependsOnStale = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies }).some(
      (d) => d.startsWith('@turnpike/') && stale.includes(d.slice('@turnpike/'.length)),
    );
    if (dependsOnStale || mtime(path.join(folder, 'dist', '.built')) < newest) stale.push(name);
  }
  return stale;
}

function newestIn(folder) {
  let newest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) newest = Math.max(newest, newestIn(file));
    else if (!entry.name.endsWith('.test.ts')) newest = Math.max(newest, mtime(file));
  }
  return newest;
}

const mtime = (file) => (existsSync(file) ? statSync(file).mtimeMs : 0);
