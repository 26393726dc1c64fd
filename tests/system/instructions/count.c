/* Guest instruction counter for qemu-user (TCG plugin interface, version 1), for tests/system/instructions.py.
 *
 * Counts every instruction that the guest executes. The guest marks moments by the getppid system call, which no engine makes by itself: at
 * each mark the count so far goes to the output file, one number a line. Instructions are counted where their translation block begins, and a
 * system call ends its block, so that a mark is exact. Counters are shared by all threads without a lock: run the guest on one thread.
 *
 *   qemu-aarch64 -plugin ./count.so,out=FILE[,symbols=FILE,from=MARK,to=MARK] PROGRAM
 *
 * With symbols (and qemu's "-d plugin -D /dev/null", which makes it read the program's symbol table) the instructions between two marks,
 * numbered from 1, are also listed by function, most first.
 *
 * Debian ships no qemu-plugin.h; the declarations below are those of QEMU 7.2's include/qemu/qemu-plugin.h (GPL-2.0-or-later; an interface
 * for plugins), reduced to what is used.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                                            uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);

#define VISIBLE __attribute__((visibility("default")))
VISIBLE int qemu_plugin_version = 1;

enum { GETPPID = 173 /* arm64, asm-generic/unistd.h */, SLOTS = 1 << 16 };

static uint64_t total;
static FILE *marks;
static const char *symbol_file;
static long n_marks, from_mark, to_mark;

struct symbol {
    char *name;
    uint64_t count, at_from, at_to;
};
static struct symbol table[SLOTS];

static struct symbol *slot(const char *name)
{
    unsigned hash = 5381;
    if (!name || !*name)
        name = "(shared libraries and unnamed)";
    for (const char *c = name; *c; c++)
        hash = hash * 33 + (unsigned char)*c;
    for (unsigned n = 0; n < SLOTS; n++) {
        struct symbol *s = &table[(hash + n) % SLOTS];
        if (!s->name)
            s->name = strdup(name);
        if (!strcmp(s->name, name))
            return s;
    }
    abort(); /* more functions than slots */
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &total, n);
    if (symbol_file) {
        const char *name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
        qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &slot(name)->count, n);
    }
}

static void on_syscall(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
                       uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != GETPPID)
        return;
    fprintf(marks, "%llu\n", (unsigned long long)total);
    n_marks++;
    if (symbol_file && (n_marks == from_mark || n_marks == to_mark))
        for (int n = 0; n < SLOTS; n++)
            *(n_marks == from_mark ? &table[n].at_from : &table[n].at_to) = table[n].count;
}

static int by_count(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    uint64_t nx = x->at_to - x->at_from, ny = y->at_to - y->at_from;
    return nx < ny ? 1 : nx > ny ? -1 : 0;
}

static void at_exit(qemu_plugin_id_t id, void *data)
{
    (void)id, (void)data;
    fclose(marks);
    FILE *file = symbol_file ? fopen(symbol_file, "w") : NULL;
    if (!file)
        return;
    qsort(table, SLOTS, sizeof table[0], by_count); /* the counters move, but nothing runs any more */
    for (int n = 0; n < 200 && table[n].name; n++)
        fprintf(file, "%llu %s\n", (unsigned long long)(table[n].at_to - table[n].at_from), table[n].name);
    fclose(file);
}

VISIBLE int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int n = 0; n < argc; n++) {
        if (!strncmp(argv[n], "out=", 4))
            marks = fopen(argv[n] + 4, "w");
        else if (!strncmp(argv[n], "symbols=", 8))
            symbol_file = strdup(argv[n] + 8);
        else if (!strncmp(argv[n], "from=", 5))
            from_mark = atol(argv[n] + 5);
        else if (!strncmp(argv[n], "to=", 3))
            to_mark = atol(argv[n] + 3);
    }
    if (!marks)
        return -1; /* out= is missing or cannot be written */
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
