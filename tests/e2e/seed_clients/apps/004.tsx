import { createRoot } from 'react-dom/client';
import { DownloadComponent } from '../004/DownloadComponent';

createRoot(document.getElementById('root')!).render(<DownloadComponent />);
