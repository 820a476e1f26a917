// For real-time updates instead of polling
import { useEffect, useState } from "react";

export function useWebSocketDownload(fileId: number) {
  const [job, setJob] = useState<DownloadJob | null>(null);
  const [ws, setWs] = useState<WebSocket | null>(null);

  useEffect(() => {
    const websocket = new WebSocket("ws://api.example.com/ws");

    websocket.onopen = () => {
      websocket.send(
        JSON.stringify({
          type: "subscribe",
          job_id: job?.job_id,
        }),
      );
    };

    websocket.onmessage = (event) => {
      const update = JSON.parse(event.data);
      setJob(update);
    };

    websocket.onerror = (error) => {
      console.error("WebSocket error:", error);
      // Fall back to polling
    };

    setWs(websocket);

    return () => {
      websocket.close();
    };
  }, [job?.job_id]);

  // ... rest of the hook
}
