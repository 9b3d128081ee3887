// Asking the gateway: one streamed chat request, its events and its text as they come.

export async function names(key) {
  const response = await fetch("/v1/models", { headers: headers(key) });
  const said = await response.json();
  if (!response.ok) throw new Error(said.error?.message ?? response.statusText);
  return said.data.map((model) => model.id);
}

function headers(key) {
  const all = { "content-type": "application/json" };
  if (key) all.authorization = `Bearer ${key}`;
  return all;
}

// Calls `heard` with {event}, {content}, {block}, {usage} until the answer is complete.
export async function ask(request, key, signal, heard) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    body: JSON.stringify({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    }),
    signal,
  });
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    throw new Error(said?.error?.message ?? `the gateway answered ${response.status}`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) hear(part, heard);
  }
}

function hear(part, heard) {
  if (part.startsWith(": itscale {")) {
    heard({ event: JSON.parse(part.slice(10)) });
    return;
  }
  if (!part.startsWith("data: ") || part === "data: [DONE]") return;
  const said = JSON.parse(part.slice(6));
  if (said.error) throw new Error(said.error.message);
  const delta = said.choices?.[0]?.delta;
  if (delta?.content) heard({ content: delta.content });
  if (said.itscale) heard({ block: said.itscale });
  if (said.usage) heard({ usage: said.usage });
}
