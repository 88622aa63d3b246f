/* Kills the process that it is loaded into (LD_PRELOAD) when it is about to change files below a directory for the n-th time.

   STRIKE_BELOW is the directory, STRIKE_AT is n: 1 is the first such call, 0 none. Counted are the calls of the C library that create,
   rename, remove, flush or cut a file or directory, of every thread; at the end of the process STRIKE_COUNT receives how many there were. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long count;
static const char *below;
static long at;

__attribute__((constructor)) static void begin(void) {
  below = getenv("STRIKE_BELOW");
  at = below ? atol(getenv("STRIKE_AT")) : 0;
}

/* About to change PATH, or what DESCRIPTOR is open for where PATH is NULL. */
static void about_to_change(const char *path, int descriptor) {
  char link[64], found[4096] = "";
  if (!below) return;
  if (!path) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, found, sizeof found - 1) < 0) return;
    path = found;
  }
  if (strncmp(path, below, strlen(below)) == 0 && atomic_fetch_add(&count, 1) + 1 == at) kill(getpid(), SIGKILL);
}

__attribute__((destructor)) static void tell(void) {
  const char *path = getenv("STRIKE_COUNT");
  FILE *file = path && count ? fopen(path, "w") : NULL;
  if (!file) return;
  fprintf(file, "%ld\n", count);
  fclose(file);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHANGES(name, parameters, arguments, path, descriptor) \
  int name parameters {                                        \
    about_to_change(path, descriptor);                         \
    return REAL(name) arguments;                               \
  }

CHANGES(rename, (const char *from, const char *to), (from, to), from, 0)
CHANGES(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), from, 0)
CHANGES(mkdir, (const char *path, mode_t mode), (path, mode), path, 0)
CHANGES(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), path, 0)
CHANGES(rmdir, (const char *path), (path), path, 0)
CHANGES(unlink, (const char *path), (path), path, 0)
CHANGES(fsync, (int descriptor), (descriptor), NULL, descriptor)
CHANGES(fdatasync, (int descriptor), (descriptor), NULL, descriptor)
CHANGES(ftruncate, (int descriptor, off_t size), (descriptor, size), NULL, descriptor)
CHANGES(ftruncate64, (int descriptor, off64_t size), (descriptor, size), NULL, descriptor)

/* A name relative to a directory (shutil.rmtree): the directory says where it is. */
int unlinkat(int at, const char *path, int flags) {
  about_to_change(path[0] == '/' ? path : NULL, at);
  return REAL(unlinkat)(at, path, flags);
}

#define OPENS(name)                                                                                     \
  int name(const char *path, int flags, ...) {                                                          \
    va_list rest;                                                                                       \
    va_start(rest, flags);                                                                              \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                             \
    va_end(rest);                                                                                       \
    if (flags & (O_CREAT | O_TRUNC)) about_to_change(path, 0);                                          \
    return REAL(name)(path, flags, mode);                                                               \
  }
OPENS(open)
OPENS(open64)

#define FOPENS(name)                                      \
  FILE *name(const char *path, const char *mode) {        \
    if (strpbrk(mode, "wa")) about_to_change(path, 0);    \
    return REAL(name)(path, mode);                        \
  }
FOPENS(fopen)
FOPENS(fopen64)
