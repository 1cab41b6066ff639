// A delegate behind TensorFlow Lite's plugin interface, so that what a delegate takes can be tested without its chip.
// With the option "take" it computes every FULLY_CONNECTED of floats, without it nothing; "fail" keeps it from loading;
// into the folder "keep" it writes what it compiled, or would have.
// The structs are the heads of those in tensorflow/lite/core/c/common.h, which grow at their ends only.

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct {
  int type;
  float *data;
  IntArray *dims;
  float scale;
  int32_t zero_point;
  int allocation;
  size_t bytes;
  const void *mapped;
  const char *name;
  void *delegate;
  int buffer_handle;
  _Bool stale, variable;
  int quantisation;
  void *quantisation_parameters, *sparsity;
  const IntArray *signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void *user_data, *builtin; } Node;
typedef struct Context Context;
typedef struct Delegate Delegate;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *external;
  void *(*async_kernel)(Context *, Node *);
  uint64_t inplace;
} Registration;
struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *implementation;
  int (*resize)(Context *, Tensor *, IntArray *);
  void (*report)(Context *, const char *, ...);
  int (*add)(Context *, int, int *);
  int (*get_node)(Context *, int, Node **, Registration **);
  int (*replace)(Context *, Registration, const IntArray *, Delegate *);
};
struct Delegate {
  void *data;
  int (*prepare)(Context *, Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *opaque_builder;
};
typedef struct { Delegate *delegate; IntArray *nodes, *inputs, *outputs; } Parameters;
typedef struct { int size; int nodes[64][3]; } Taken;  // input, weights, output

enum { FULLY_CONNECTED = 9, FLOAT32 = 1 };

static void *init(Context *context, const char *buffer, size_t length) {
  const Parameters *parameters = (const Parameters *)buffer;
  Taken *taken = calloc(1, sizeof(Taken));
  (void)length;
  for (int i = 0; i < parameters->nodes->size; i++) {
    Node *node;
    Registration *registration;
    context->get_node(context, parameters->nodes->data[i], &node, &registration);
    int *place = taken->nodes[taken->size++];
    place[0] = node->inputs->data[0], place[1] = node->inputs->data[1], place[2] = node->outputs->data[0];
  }
  return taken;
}

static void release(Context *context, void *data) { (void)context, free(data); }

static int ready(Context *context, Node *node) { return (void)context, (void)node, 0; }

static int invoke(Context *context, Node *node) {
  const Taken *taken = node->user_data;
  for (int i = 0; i < taken->size; i++) {
    const Tensor *x = &context->tensors[taken->nodes[i][0]], *w = &context->tensors[taken->nodes[i][1]];
    Tensor *y = &context->tensors[taken->nodes[i][2]];
    int outputs = w->dims->data[0], inputs = w->dims->data[1];
    for (int row = 0; row < outputs; row++) {
      y->data[row] = 0;
      for (int column = 0; column < inputs; column++) y->data[row] += w->data[row * inputs + column] * x->data[column];
    }
  }
  return 0;
}

static int prepare(Context *context, Delegate *delegate) {
  IntArray *plan;
  if (!delegate->data) return 0;
  if (context->get_execution_plan(context, &plan)) return 1;
  IntArray *wanted = malloc(sizeof(IntArray) + sizeof(int) * (size_t)plan->size);
  wanted->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->get_node(context, plan->data[i], &node, &registration)) return 1;
    if (registration->builtin_code == FULLY_CONNECTED && context->tensors[node->inputs->data[0]].type == FLOAT32)
      wanted->data[wanted->size++] = plan->data[i];
  }
  Registration kernel = {init, release, ready, invoke, NULL, 0, "TestDelegate", 1, NULL, NULL, 0};
  int status = wanted->size ? context->replace(context, kernel, wanted, delegate) : 0;
  free(wanted);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t options, void (*report)(const char *)) {
  Delegate *delegate = calloc(1, sizeof(Delegate));
  for (size_t i = 0; i < options; i++) {
    if (!strcmp(keys[i], "fail")) return report(values[i]), free(delegate), NULL;
    if (!strcmp(keys[i], "take")) delegate->data = delegate;
    if (!strcmp(keys[i], "keep")) {
      char path[4096];
      snprintf(path, sizeof(path), "%s/compiled", values[i]);
      FILE *file = fopen(path, "w");
      if (file) fclose(file);
    }
  }
  delegate->prepare = prepare;
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
