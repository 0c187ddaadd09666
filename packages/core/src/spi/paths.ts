/** A URL as a message may show it: a user, a password and a query may be secrets. */
export const shownUrl = (url: URL): string => `${url.protocol}//${url.host}${url.pathname}`;

/** The longest path, and the longest name in one, that file systems take (Linux: PATH_MAX, NAME_MAX; a path this long is nobody's). */
const MAX_PATH = 1024;
const MAX_NAME = 255;

/** What a value is that was given where the path of a file belongs: `a private key`, `a signed token`; undefined = it may be a path. It may then be a secret: it must stand in no
 *  message, and Node's error for it, which quotes it, must be no cause. */
export function notAPath(value: string): string | undefined {
  const text = value.trim();
  if (/^-----BEGIN [A-Z0-9 ]*PRIVATE KEY/.test(text) || /^MI[\w+/]{60,}={0,2}$/.test(text)) return 'a private key';
  if (/^-----BEGIN/.test(text)) return 'PEM text';
  if (/^eyJ[\w-]+\.[\w-]*\.[\w-]*$/.test(text)) return 'a signed token';
  if (/^[{[]\s*["{\]}]/.test(text)) return 'JSON';
  if (/^[a-z][a-z0-9+.-]+:\/\//i.test(text)) {
    const url = URL.parse(text);
    return url ? `the URL ${shownUrl(url)}` : 'a URL';
  }
  if (/\p{Cc}/u.test(value)) return 'text of several lines';
  if (value.length > MAX_PATH || value.split('/').some((name) => Buffer.byteLength(name) > MAX_NAME)) return `text of ${value.length} characters`;
  return undefined;
}
