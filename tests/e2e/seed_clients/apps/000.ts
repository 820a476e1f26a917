// The user's journey: initiate, subscribe, follow, download. "Step 3" is a browser's own
// EventSource, which reconnects by itself.
const show = (name: string, value: unknown) => {
  document.getElementById(name)!.textContent = String(value);
};

let job: { jobId: string; subscribeUrl: string; statusUrl: string };

function subscribe() {
  const events = new EventSource(job.subscribeUrl);
  const told: string[] = [];
  const follow = (event: MessageEvent) => {
    const data = JSON.parse(event.data);
    told.push(`${event.type}:${data.progress}`);
    show('told', told.join(' '));
    show('status', data.status);
    show('progress', data.progress);
    if (event.type === 'complete') {
      const link = document.getElementById('download') as HTMLAnchorElement;
      link.href = data.downloadUrl;
      link.hidden = false;
    }
    if (event.type === 'failed') show('error', data.error);
    if (['complete', 'failed', 'cancelled'].includes(event.type)) events.close();
  };
  for (const type of ['status', 'progress', 'complete', 'failed', 'cancelled']) {
    events.addEventListener(type, follow);
  }
  events.onerror = () => show('broken', Number(document.getElementById('broken')!.textContent) + 1);
}

async function initiate() {
  const ids = [70000, 70001, 70002];
  const response = await fetch('/v1/download/initiate', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      file_ids: ids,
      source_urls: ids.map((id) => `${(window as any).SOURCES}/${id}.pdf`),
      options: { compress: true, format: 'zip', watermark: false },
    }),
  });
  job = await response.json();
  show('status', job.status);
  subscribe();
}

document.getElementById('root')!.innerHTML = `
  <button id="initiate">Download Order Documents</button>
  <button id="cancel">Cancel</button> <button id="retry">Retry</button>
  <b id="status"></b> <i id="progress"></i> <i id="error"></i> <i id="told"></i>
  <i id="broken">0</i> <a id="download" hidden>Download Ready</a>`;
document.getElementById('initiate')!.onclick = initiate;
document.getElementById('cancel')!.onclick = () =>
  fetch(`/v1/download/${job.jobId}`, { method: 'DELETE' });
document.getElementById('retry')!.onclick = async () => {
  await fetch(`/v1/download/${job.jobId}/retry`, { method: 'POST' });
  show('error', '');
  subscribe();
};
