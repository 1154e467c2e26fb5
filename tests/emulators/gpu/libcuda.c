/* The stand-in driver library: what a program does before its first kernel, with the real names and codes. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, DEVICE_UNAVAILABLE = 46, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_CONTEXT = 201, SYSTEM_NOT_READY = 802
};

typedef int Device;
typedef struct Context { Device device; int users; } Context;
typedef uint64_t Pointer;

#define DEVICES 64
static struct { char model[96], lie[32]; int count; size_t memory_mib; } shown;
static int ready;
static Context primary[DEVICES];
static _Thread_local Context *current;

static int lies(const char *name) { return strcmp(shown.lie, name) == 0; }

static int read_settings(void) {
    Dl_info self;
    char path[4096], line[256];
    if (!dladdr((void *)read_settings, &self)) return 0;
    if (!realpath(self.dli_fname, path)) return 0;
    for (int up = 0; up < 2; up++) *strrchr(path, '/') = 0;
    if (strlen(path) + 10 > sizeof path) return 0;
    strcat(path, "/gpu.conf");
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    memset(&shown, 0, sizeof shown);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, '=');
        if (!value) continue;
        *value++ = 0;
        if (!strcmp(line, "model")) snprintf(shown.model, sizeof shown.model, "%.95s", value);
        if (!strcmp(line, "lie")) snprintf(shown.lie, sizeof shown.lie, "%.31s", value);
        if (!strcmp(line, "count")) shown.count = atoi(value);
        if (!strcmp(line, "memory_mib")) shown.memory_mib = (size_t)atoll(value);
    }
    fclose(file);
    if (shown.count > DEVICES) shown.count = DEVICES;
    return 1;
}

static int usable(Device device) {
    if (!ready) return NOT_INITIALIZED;
    return device >= 0 && device < shown.count ? SUCCESS : INVALID_DEVICE;
}

int cuInit(unsigned flags) {
    if (flags) return INVALID_VALUE;
    if (!read_settings()) return NO_DEVICE;
    if (lies("init_hangs")) for (;;) pause();
    if (lies("init_crashes")) raise(SIGSEGV);
    if (lies("init")) return SYSTEM_NOT_READY;
    if (lies("driver_count")) shown.count--;
    /* Of its grammar only what hides all: an empty list. */
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible && !*visible) return NO_DEVICE;
    if (shown.count < 1) return NO_DEVICE;
    ready = 1;
    return SUCCESS;
}

int cuDriverGetVersion(int *version) {
    if (!version) return INVALID_VALUE;
    *version = 12080;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) {
    if (!ready) return NOT_INITIALIZED;
    if (!count) return INVALID_VALUE;
    *count = shown.count;
    return SUCCESS;
}

int cuDeviceGet(Device *device, int ordinal) {
    int code = usable(ordinal);
    if (!code) *device = ordinal;
    return code;
}

int cuDeviceGetName(char *name, int length, Device device) {
    int code = usable(device);
    if (!code && (!name || length < 1)) return INVALID_VALUE;
    if (!code) snprintf(name, (size_t)length, "%s", shown.model);
    return code;
}

int cuDeviceTotalMem_v2(size_t *bytes, Device device) {
    int code = usable(device);
    if (!code) *bytes = shown.memory_mib << 20;
    return code;
}

int cuDeviceGetAttribute(int *value, int attribute, Device device) {
    int code = usable(device);
    /* Of all attributes: multiprocessors, and the compute capability's two halves. */
    if (!code) *value = attribute == 16 ? 108 : attribute == 75 ? 8 : 0;
    return code;
}

int cuDevicePrimaryCtxRetain(Context **context, Device device) {
    int code = usable(device);
    if (code) return code;
    if (lies("context")) return DEVICE_UNAVAILABLE;
    primary[device].device = device;
    primary[device].users++;
    *context = &primary[device];
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(Device device) {
    int code = usable(device);
    if (code) return code;
    if (!primary[device].users) return INVALID_CONTEXT;
    primary[device].users--;
    return SUCCESS;
}

int cuCtxCreate_v2(Context **context, unsigned flags, Device device) {
    (void)flags;
    int code = usable(device);
    if (code) return code;
    if (lies("context")) return DEVICE_UNAVAILABLE;
    Context *made = calloc(1, sizeof *made);
    if (!made) return OUT_OF_MEMORY;
    made->device = device;
    *context = current = made;
    return SUCCESS;
}

int cuCtxDestroy_v2(Context *context) {
    if (!context) return INVALID_CONTEXT;
    if (current == context) current = NULL;
    free(context);
    return SUCCESS;
}

int cuCtxSetCurrent(Context *context) {
    if (!ready) return NOT_INITIALIZED;
    current = context;
    return SUCCESS;
}

int cuCtxGetCurrent(Context **context) {
    if (!ready) return NOT_INITIALIZED;
    *context = current;
    return SUCCESS;
}

int cuCtxGetDevice(Device *device) {
    if (!current) return INVALID_CONTEXT;
    *device = current->device;
    return SUCCESS;
}

int cuCtxSynchronize(void) { return current ? SUCCESS : INVALID_CONTEXT; }

int cuMemGetInfo_v2(size_t *left, size_t *total) {
    if (!current) return INVALID_CONTEXT;
    *left = *total = shown.memory_mib << 20;
    return SUCCESS;
}

int cuMemAlloc_v2(Pointer *address, size_t bytes) {
    if (!current) return INVALID_CONTEXT;
    if (!bytes) return INVALID_VALUE;
    if (lies("allocation") || bytes > shown.memory_mib << 20) return OUT_OF_MEMORY;
    void *made = malloc(bytes);
    if (!made) return OUT_OF_MEMORY;
    *address = (Pointer)(uintptr_t)made;
    return SUCCESS;
}

int cuMemFree_v2(Pointer address) {
    if (!current) return INVALID_CONTEXT;
    free((void *)(uintptr_t)address);
    return SUCCESS;
}

int cuMemsetD8_v2(Pointer address, unsigned char value, size_t bytes) {
    if (!current) return INVALID_CONTEXT;
    memset((void *)(uintptr_t)address, value, bytes);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(Pointer to, const void *from, size_t bytes) {
    if (!current) return INVALID_CONTEXT;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void *to, Pointer from, size_t bytes) {
    if (!current) return INVALID_CONTEXT;
    memcpy(to, (void *)(uintptr_t)from, bytes);
    if (lies("corrupt") && bytes) ((char *)to)[bytes / 2] ^= 0x10;
    return SUCCESS;
}

static const struct { int code; const char *name, *text; } ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {SYSTEM_NOT_READY, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
};

static int told(int code, const char **text, int field) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) {
            *text = field ? ERRORS[i].text : ERRORS[i].name;
            return SUCCESS;
        }
    *text = NULL;
    return INVALID_VALUE;
}

int cuGetErrorName(int code, const char **text) { return told(code, text, 0); }

int cuGetErrorString(int code, const char **text) { return told(code, text, 1); }
